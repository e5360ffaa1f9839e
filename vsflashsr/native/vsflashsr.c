/* core.vsflashsr: asks Python which frames it needs, requests them from the core, hands them over, and takes the result.
 *
 * Nothing here waits. What the core may do while a callback waits for a frame is nothing at all (it starts no filter whose
 * predicted allocations don't fit its limit while any call is being processed, and a call that waits counts as one), so
 * frames are requested, also in arAllFramesReady, as often as Python asks for more.
 *
 * Two nodes make one filter:
 *   Steps (fmFrameState: one output at a time, from its first activation to its end) advances the model's state, in rounds
 *     of requests of which each holds few frames. A replay is never interleaved with another, so two of them can't take the
 *     state from each other for ever. Its frames say only that output n is finished.
 *   Frames (fmParallel) fetches what output n is likely to need while others are being made, has Steps make it, and takes
 *     it from Python: copies, downloads and conversions run beside the model.
 * Order, segments, seeking and models are Python's (vsflashsr/stream.py, vsflashsr/node.py), reached through func arguments.
 */
#define VS_USE_API_43
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <VapourSynth4.h>

typedef struct {
    VSNode *clip;
    VSVideoInfo info;
    VSFunction *step; /* (n, numbers, frames) -> {need: numbers} | {} when output n is finished | {error: why} */
    const VSFrame *token;
} Steps;

typedef struct {
    VSNode *clip, *steps;
    VSVideoInfo info;
    VSFunction *plan;    /* (n, ticket) -> {need: numbers}: worth fetching ahead, perhaps none */
    VSFunction *take;    /* (n, ticket, numbers, frames) -> {} */
    VSFunction *deliver; /* (n, ticket) -> {frame: frame} | {error: why}; ends the ticket */
    VSFunction *drop;    /* (n, ticket) -> {}: ends the ticket of a request that failed */
    atomic_llong tickets;
} Frames;

/* What one request for a frame carries from one activation to the next. */
typedef struct {
    int64_t ticket;
    int making; /* Frames: Steps has been asked */
    int count;
    int64_t numbers[]; /* requested in the activation before */
} Request;

static Request *newRequest(int64_t ticket, int making, const int64_t *numbers, int count) {
    Request *request = malloc(sizeof(Request) + (size_t)count * sizeof(int64_t));
    if (!request)
        return NULL;
    request->ticket = ticket;
    request->making = making;
    request->count = count;
    if (count)
        memcpy(request->numbers, numbers, (size_t)count * sizeof(int64_t));
    return request;
}

/* Calls `func` with n, a ticket if it isn't negative, and the frames that came for `request`, which are then let go of.
   NULL, with the filter's error set, if that failed or Python said why it can't. Else the caller frees what it returns. */
static VSMap *call(VSFunction *func, int n, int64_t ticket, Request *request, VSNode *clip, VSFrameContext *frameCtx,
                   const VSAPI *vsapi) {
    VSMap *in = vsapi->createMap();
    VSMap *out = vsapi->createMap();
    vsapi->mapSetInt(in, "n", n, maReplace);
    if (ticket >= 0)
        vsapi->mapSetInt(in, "ticket", ticket, maReplace);
    if (clip) {
        vsapi->mapSetEmpty(in, "numbers", ptInt);
        vsapi->mapSetEmpty(in, "frames", ptVideoFrame);
        for (int i = 0; request && i < request->count; i++) {
            vsapi->mapSetInt(in, "numbers", request->numbers[i], maAppend);
            vsapi->mapConsumeFrame(in, "frames", vsapi->getFrameFilter((int)request->numbers[i], clip, frameCtx), maAppend);
            vsapi->releaseFrameEarly(clip, (int)request->numbers[i], frameCtx);
        }
    }
    vsapi->callFunction(func, in, out);
    vsapi->freeMap(in);
    int missing;
    const char *error = vsapi->mapGetError(out);
    if (!error)
        error = vsapi->mapGetData(out, "error", 0, &missing);
    if (error) {
        if (frameCtx)
            vsapi->setFilterError(error, frameCtx);
        vsapi->freeMap(out);
        return NULL;
    }
    return out;
}

/* The numbers in `answer`, which belong to it; -1, with the filter's error set, if one isn't a frame of the clip. */
static int needed(const VSMap *answer, const int64_t **numbers, const VSVideoInfo *info, VSFrameContext *frameCtx,
                  const VSAPI *vsapi) {
    int missing;
    int count = vsapi->mapNumElements(answer, "need");
    *numbers = count > 0 ? vsapi->mapGetIntArray(answer, "need", &missing) : NULL;
    if (!*numbers)
        return 0;
    for (int i = 0; i < count; i++) {
        if ((*numbers)[i] < 0 || (*numbers)[i] >= info->numFrames) {
            char message[160];
            snprintf(message, sizeof(message), "flashsr: frames from 0 to %d can be asked for, got %lld; report this as a bug",
                     info->numFrames - 1, (long long)(*numbers)[i]);
            vsapi->setFilterError(message, frameCtx);
            return -1;
        }
    }
    return count;
}

static const VSFrame *VS_CC stepsGetFrame(int n, int reason, void *instance, void **frameData, VSFrameContext *frameCtx,
                                          VSCore *core, const VSAPI *vsapi) {
    (void)core;
    Steps *d = instance;
    Request *request = frameData[0];
    frameData[0] = NULL;
    if (reason == arError) {
        free(request);
        return NULL;
    }
    VSMap *answer = call(d->step, n, -1, request, d->clip, frameCtx, vsapi);
    free(request);
    if (!answer)
        return NULL;
    const int64_t *numbers;
    int count = needed(answer, &numbers, &d->info, frameCtx, vsapi);
    const VSFrame *result = NULL;
    if (count > 0) {
        frameData[0] = request = newRequest(0, 0, numbers, count);
        if (request) {
            for (int i = 0; i < count; i++)
                vsapi->requestFrameFilter((int)numbers[i], d->clip, frameCtx);
        } else {
            vsapi->setFilterError("flashsr: out of memory", frameCtx);
        }
    } else if (!count) {
        result = vsapi->addFrameRef(d->token);
    }
    vsapi->freeMap(answer);
    return result;
}

static void VS_CC stepsFree(void *instance, VSCore *core, const VSAPI *vsapi) {
    (void)core;
    Steps *d = instance;
    vsapi->freeNode(d->clip);
    vsapi->freeFunction(d->step);
    vsapi->freeFrame(d->token);
    free(d);
}

static const VSFrame *VS_CC framesGetFrame(int n, int reason, void *instance, void **frameData, VSFrameContext *frameCtx,
                                           VSCore *core, const VSAPI *vsapi) {
    (void)core;
    Frames *d = instance;
    Request *request = frameData[0];
    VSMap *answer;
    const VSFrame *result = NULL;
    if (reason == arInitial) {
        int64_t ticket = atomic_fetch_add(&d->tickets, 1);
        answer = call(d->plan, n, ticket, NULL, NULL, frameCtx, vsapi);
        if (!answer)
            return NULL;
        const int64_t *numbers;
        int count = needed(answer, &numbers, &d->info, frameCtx, vsapi);
        if (count >= 0)
            frameData[0] = request = newRequest(ticket, !count, numbers, count);
        if (count >= 0 && !request)
            vsapi->setFilterError("flashsr: out of memory", frameCtx);
        if (!request) {
            vsapi->freeMap(answer);
            answer = call(d->drop, n, ticket, NULL, NULL, NULL, vsapi);
        } else if (count) {
            for (int i = 0; i < count; i++)
                vsapi->requestFrameFilter((int)numbers[i], d->clip, frameCtx);
        } else {
            vsapi->requestFrameFilter(n, d->steps, frameCtx);
        }
        vsapi->freeMap(answer);
        return NULL;
    }
    if (reason == arAllFramesReady && !request->making) {
        answer = call(d->take, n, request->ticket, request, d->clip, frameCtx, vsapi);
        if (answer) {
            request->making = 1;
            vsapi->requestFrameFilter(n, d->steps, frameCtx);
            vsapi->freeMap(answer);
            return NULL;
        }
        answer = call(d->drop, n, request->ticket, NULL, NULL, NULL, vsapi);
    } else if (reason == arAllFramesReady) {
        answer = call(d->deliver, n, request->ticket, NULL, NULL, frameCtx, vsapi);
        int missing;
        if (answer && !(result = vsapi->mapGetFrame(answer, "frame", 0, &missing)))
            vsapi->setFilterError("flashsr: no frame came back; report this as a bug", frameCtx);
    } else {
        answer = call(d->drop, n, request->ticket, NULL, NULL, NULL, vsapi);
    }
    vsapi->freeMap(answer);
    free(request);
    frameData[0] = NULL;
    return result;
}

static void VS_CC framesFree(void *instance, VSCore *core, const VSAPI *vsapi) {
    (void)core;
    Frames *d = instance;
    vsapi->freeNode(d->steps);
    vsapi->freeNode(d->clip);
    vsapi->freeFunction(d->plan);
    vsapi->freeFunction(d->take);
    vsapi->freeFunction(d->deliver);
    vsapi->freeFunction(d->drop);
    free(d);
}

static VSNode *createSteps(const VSMap *in, VSCore *core, const VSAPI *vsapi) {
    Steps *d = calloc(1, sizeof(Steps));
    if (!d)
        return NULL;
    d->clip = vsapi->mapGetNode(in, "clip", 0, NULL);
    d->info = *vsapi->getVideoInfo(d->clip);
    d->step = vsapi->mapGetFunction(in, "step", 0, NULL);
    VSVideoInfo info = d->info;
    vsapi->getVideoFormatByID(&info.format, pfGray8, core);
    info.width = info.height = 1;
    VSFrame *token = vsapi->newVideoFrame(&info.format, 1, 1, NULL, core);
    *vsapi->getWritePtr(token, 0) = 0;
    d->token = token;
    VSFilterDependency dependency = {d->clip, rpGeneral};
    VSNode *node = vsapi->createVideoFilter2("Steps", &info, stepsGetFrame, stepsFree, fmFrameState, &dependency, 1, d, core);
    /* A token from the cache would say that a frame is finished which has been dropped since. */
    if (node)
        vsapi->setCacheMode(node, cmForceDisable);
    return node;
}

static void VS_CC createStream(const VSMap *in, VSMap *out, void *userData, VSCore *core, const VSAPI *vsapi) {
    (void)userData;
    VSNode *steps = createSteps(in, core, vsapi);
    Frames *d = steps ? calloc(1, sizeof(Frames)) : NULL;
    if (!d) {
        vsapi->freeNode(steps);
        vsapi->mapSetError(out, "flashsr: out of memory");
        return;
    }
    d->steps = steps;
    d->clip = vsapi->mapGetNode(in, "clip", 0, NULL);
    d->info = *vsapi->getVideoInfo(d->clip);
    d->plan = vsapi->mapGetFunction(in, "plan", 0, NULL);
    d->take = vsapi->mapGetFunction(in, "take", 0, NULL);
    d->deliver = vsapi->mapGetFunction(in, "deliver", 0, NULL);
    d->drop = vsapi->mapGetFunction(in, "drop", 0, NULL);
    VSVideoInfo info = d->info;
    info.width = vsapi->mapGetIntSaturated(in, "width", 0, NULL);
    info.height = vsapi->mapGetIntSaturated(in, "height", 0, NULL);
    VSFilterDependency dependencies[] = {{d->clip, rpGeneral}, {d->steps, rpGeneral}};
    vsapi->createVideoFilter(out, "Stream", &info, framesGetFrame, framesFree, fmParallel, dependencies, 2, d, core);
}

VS_EXTERNAL_API(void) VapourSynthPluginInit2(VSPlugin *plugin, const VSPLUGINAPI *vspapi) {
    vspapi->configPlugin("io.vsflashsr.stream", "vsflashsr", "Frames of a streaming model, requested and never waited for",
                         VS_MAKE_VERSION(1, 0), VAPOURSYNTH_API_VERSION, 0, plugin);
    vspapi->registerFunction("Stream",
                             "clip:vnode;width:int;height:int;plan:func;take:func;step:func;deliver:func;drop:func;",
                             "clip:vnode;", createStream, NULL, plugin);
}
