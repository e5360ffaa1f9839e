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
 *
 * GPUStream is the same filter over frames that are resident on the GPU. Beside each frame that it hands over, and beside the
 * new frame that `deliver` fills, stand the planes' exported allocations as numbers (see `described`): importing them, waiting
 * for them and signalling are Python's too (vsflashsr/gpu/external.py). A handle belongs to whom it was given.
 */
#define VS_USE_API_43
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#include <windows.h>
#else
#include <unistd.h>
#endif

#include <VSVulkan4.h>
#include <VapourSynth4.h>

/* Where frames are, and how they are waited for. */
typedef struct {
    const VSVULKANAPI *gpu; /* NULL: on the host */
    int waits; /* the host waits for a frame's planes before they are handed over: their semaphores can't be exported */
} Place;

typedef struct {
    VSNode *clip;
    VSVideoInfo info;
    Place place;
    VSFunction *step; /* (n, numbers, frames) -> {need: numbers} | {} when output n is finished | {error: why} */
    const VSFrame *token;
} Steps;

typedef struct {
    VSNode *clip, *steps;
    VSVideoInfo info, made; /* of the clip, of what is delivered */
    Place place;
    VSGPUTimeline *timeline; /* signalled when what was delivered is written; NULL: it is written when it is delivered */
    VSGPUMemoryReservation *reservation;
    VSFunction *plan;    /* (n, ticket) -> {need: numbers}: worth fetching ahead, perhaps none */
    VSFunction *take;    /* (n, ticket, numbers, frames) -> {} */
    VSFunction *deliver; /* (n, ticket) -> {frame: frame} | {error: why}; ends the ticket. On the GPU (n, ticket, planes of the
                            new frame) -> {value: of the timeline, 0: it is written} */
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

/* Of planes that nobody will import. */
static void closeHandles(const VSMap *map, const VSAPI *vsapi) {
    int missing;
    for (int i = 0; i < vsapi->mapNumElements(map, "handle"); i++) {
        int64_t handle = vsapi->mapGetInt(map, "handle", i, &missing);
#ifdef _WIN32
        CloseHandle((HANDLE)(intptr_t)handle);
#else
        close((int)handle);
#endif
    }
}

/* Adds to `map` what a foreign API needs of each plane of `frame`, plane by plane: "memory" (the allocation's id), "size" (its
   bytes), "offset", "stride" (bytes), "handle" (a new one), "semaphore" and "value" to wait for (0: ready now). Nonzero where
   a plane can't be exported. */
static int described(VSMap *map, const VSFrame *frame, const Place *place, char *error, int errorSize, const VSAPI *vsapi) {
    const VSVideoFormat *format = vsapi->getVideoFrameFormat(frame);
    for (int plane = 0; plane < format->numPlanes; plane++) {
        VSVulkanExportedMemory exported;
        VSVulkanPlaneInfo info;
        if (place->gpu->getGPUPlane(frame, plane, &info) ||
            place->gpu->exportGPUPlane(frame, plane, &exported, error, errorSize))
            return 1;
        vsapi->mapSetInt(map, "memory", (int64_t)exported.memoryId, maAppend);
        vsapi->mapSetInt(map, "size", (int64_t)exported.memorySize, maAppend);
        vsapi->mapSetInt(map, "offset", (int64_t)exported.offset, maAppend);
        vsapi->mapSetInt(map, "stride", vsapi->getStride(frame, plane), maAppend);
        vsapi->mapSetInt(map, "handle", (int64_t)exported.handle, maAppend);
        vsapi->mapSetInt(map, "semaphore", place->waits ? 0 : (int64_t)(uintptr_t)info.readySemaphore, maAppend);
        vsapi->mapSetInt(map, "value", (int64_t)info.readyValue, maAppend);
    }
    return 0;
}

/* The frame that came for a request, as Python is to have it, added to `map`. Nonzero, with the filter's error set, if it can't be. */
static int handOver(VSMap *map, int n, VSNode *clip, const Place *place, VSFrameContext *frameCtx, const VSAPI *vsapi) {
    char error[512] = "flashsr: a resident frame can't be exported";
    const VSFrame *frame = place->gpu ? place->gpu->getExportableFrameFilter(n, clip, frameCtx, error, sizeof(error))
                                      : vsapi->getFrameFilter(n, clip, frameCtx);
    int failed = !frame;
    if (frame && place->gpu)
        failed = (place->waits && place->gpu->waitGPUFrame(frame, error, sizeof(error))) ||
                 described(map, frame, place, error, sizeof(error), vsapi);
    if (frame)
        vsapi->mapConsumeFrame(map, "frames", frame, maAppend);
    if (failed)
        vsapi->setFilterError(error, frameCtx);
    return failed;
}

/* Calls `func` with `in`, which is freed. NULL, with the filter's error set, if that failed or Python said why it can't. Else the
   caller frees what it returns. */
static VSMap *answered(VSFunction *func, VSMap *in, VSFrameContext *frameCtx, const VSAPI *vsapi) {
    VSMap *out = vsapi->createMap();
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

/* As `answered`, with n, a ticket if it isn't negative, and the frames that came for `request`, which are then let go of. */
static VSMap *call(VSFunction *func, int n, int64_t ticket, Request *request, VSNode *clip, const Place *place,
                   VSFrameContext *frameCtx, const VSAPI *vsapi) {
    VSMap *in = vsapi->createMap();
    vsapi->mapSetInt(in, "n", n, maReplace);
    if (ticket >= 0)
        vsapi->mapSetInt(in, "ticket", ticket, maReplace);
    if (clip) {
        vsapi->mapSetEmpty(in, "numbers", ptInt);
        vsapi->mapSetEmpty(in, "frames", ptVideoFrame);
        for (int i = 0; request && i < request->count; i++) {
            vsapi->mapSetInt(in, "numbers", request->numbers[i], maAppend);
            if (handOver(in, (int)request->numbers[i], clip, place, frameCtx, vsapi)) {
                closeHandles(in, vsapi);
                vsapi->freeMap(in);
                return NULL;
            }
            vsapi->releaseFrameEarly(clip, (int)request->numbers[i], frameCtx);
        }
    }
    return answered(func, in, frameCtx, vsapi);
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
    VSMap *answer = call(d->step, n, -1, request, d->clip, &d->place, frameCtx, vsapi);
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

/* A new resident frame that Python has written, or queued work to write. */
static const VSFrame *deliveredOnGPU(Frames *d, int n, int64_t ticket, VSFrameContext *frameCtx, VSCore *core,
                                     const VSAPI *vsapi) {
    char error[512] = "flashsr: there is no GPU memory for a frame";
    VSMap *in = vsapi->createMap();
    VSFrame *frame = d->place.gpu->newGPUVideoFrame(&d->made.format, d->made.width, d->made.height, NULL, core);
    VSMap *answer = NULL;
    if (frame && !described(in, frame, &d->place, error, sizeof(error), vsapi)) {
        vsapi->mapSetInt(in, "n", n, maReplace);
        vsapi->mapSetInt(in, "ticket", ticket, maReplace);
        VkSemaphore semaphore = d->timeline ? d->place.gpu->getGPUTimelineSemaphore(d->timeline) : NULL;
        vsapi->mapSetInt(in, "timeline", (int64_t)(uintptr_t)semaphore, maReplace);
        answer = answered(d->deliver, in, frameCtx, vsapi);
    } else {
        vsapi->setFilterError(error, frameCtx);
        closeHandles(in, vsapi);
        vsapi->freeMap(in);
        vsapi->freeMap(call(d->drop, n, ticket, NULL, NULL, NULL, NULL, vsapi));
    }
    if (!answer) {
        vsapi->freeFrame(frame);
        return NULL;
    }
    int missing;
    int64_t value = vsapi->mapGetInt(answer, "value", 0, &missing);
    for (int plane = 0; value > 0 && d->timeline && plane < d->made.format.numPlanes; plane++)
        d->place.gpu->setGPUPlaneProducer(frame, plane, d->timeline, (uint64_t)value);
    int64_t reserved = vsapi->mapGetInt(answer, "reserved", 0, &missing);
    if (!missing)
        d->place.gpu->updateGPUMemoryReservation(d->reservation, reserved);
    vsapi->freeMap(answer);
    return frame;
}

static const VSFrame *VS_CC framesGetFrame(int n, int reason, void *instance, void **frameData, VSFrameContext *frameCtx,
                                           VSCore *core, const VSAPI *vsapi) {
    Frames *d = instance;
    Request *request = frameData[0];
    VSMap *answer;
    const VSFrame *result = NULL;
    if (reason == arInitial) {
        int64_t ticket = atomic_fetch_add(&d->tickets, 1);
        answer = call(d->plan, n, ticket, NULL, NULL, NULL, frameCtx, vsapi);
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
            answer = call(d->drop, n, ticket, NULL, NULL, NULL, NULL, vsapi);
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
        answer = call(d->take, n, request->ticket, request, d->clip, &d->place, frameCtx, vsapi);
        if (answer) {
            request->making = 1;
            vsapi->requestFrameFilter(n, d->steps, frameCtx);
            vsapi->freeMap(answer);
            return NULL;
        }
        answer = call(d->drop, n, request->ticket, NULL, NULL, NULL, NULL, vsapi);
    } else if (reason == arAllFramesReady) {
        if (d->place.gpu) {
            result = deliveredOnGPU(d, n, request->ticket, frameCtx, core, vsapi);
            answer = NULL;
        } else {
            answer = call(d->deliver, n, request->ticket, NULL, NULL, NULL, frameCtx, vsapi);
            int missing;
            if (answer && !(result = vsapi->mapGetFrame(answer, "frame", 0, &missing)))
                vsapi->setFilterError("flashsr: no frame came back; report this as a bug", frameCtx);
        }
    } else {
        answer = call(d->drop, n, request->ticket, NULL, NULL, NULL, NULL, vsapi);
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
    if (d->place.gpu) {
        d->place.gpu->releaseGPUMemoryReservation(d->reservation);
        d->place.gpu->freeGPUTimeline(d->timeline);
    }
    free(d);
}

static VSNode *createSteps(const VSMap *in, Place place, VSCore *core, const VSAPI *vsapi) {
    Steps *d = calloc(1, sizeof(Steps));
    if (!d)
        return NULL;
    d->clip = vsapi->mapGetNode(in, "clip", 0, NULL);
    d->info = *vsapi->getVideoInfo(d->clip);
    d->place = place;
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

static void createFrames(const VSMap *in, VSMap *out, Place place, VSCore *core, const VSAPI *vsapi) {
    VSNode *steps = createSteps(in, place, core, vsapi);
    Frames *d = steps ? calloc(1, sizeof(Frames)) : NULL;
    if (!d) {
        vsapi->freeNode(steps);
        vsapi->mapSetError(out, "flashsr: out of memory");
        return;
    }
    d->steps = steps;
    d->clip = vsapi->mapGetNode(in, "clip", 0, NULL);
    d->info = *vsapi->getVideoInfo(d->clip);
    d->place = place;
    d->plan = vsapi->mapGetFunction(in, "plan", 0, NULL);
    d->take = vsapi->mapGetFunction(in, "take", 0, NULL);
    d->deliver = vsapi->mapGetFunction(in, "deliver", 0, NULL);
    d->drop = vsapi->mapGetFunction(in, "drop", 0, NULL);
    d->made = d->info;
    d->made.width = vsapi->mapGetIntSaturated(in, "width", 0, NULL);
    d->made.height = vsapi->mapGetIntSaturated(in, "height", 0, NULL);
    int missing;
    if (vsapi->mapGetInt(in, "half", 0, &missing))
        vsapi->queryVideoFormat(&d->made.format, d->info.format.colorFamily, stFloat, 16, 0, 0, core);
    if (place.gpu) {
        char error[512] = "";
        d->reservation = place.gpu->reserveGPUMemory(core, vsapi->mapGetInt(in, "reserve", 0, &missing), error, sizeof(error));
        d->timeline = place.waits ? NULL : place.gpu->createGPUTimeline(core, error, sizeof(error));
        if (!d->reservation || (!d->timeline && !place.waits)) {
            vsapi->mapSetError(out, error);
            framesFree(d, core, vsapi);
            return;
        }
    }
    VSFilterDependency dependencies[] = {{d->clip, rpGeneral}, {d->steps, rpGeneral}};
    vsapi->createVideoFilterEx(out, "Stream", &d->made, framesGetFrame, framesFree, fmParallel, place.gpu ? ffGPUOutput : 0,
                               dependencies, 2, d, core);
}

static void VS_CC createStream(const VSMap *in, VSMap *out, void *userData, VSCore *core, const VSAPI *vsapi) {
    (void)userData;
    Place host = {NULL, 0};
    createFrames(in, out, host, core, vsapi);
}

static void VS_CC createGPUStream(const VSMap *in, VSMap *out, void *userData, VSCore *core, const VSAPI *vsapi) {
    (void)userData;
    Place gpu = {vsapi->getVulkanAPI(), !!vsapi->mapGetInt(in, "wait", 0, NULL)};
    createFrames(in, out, gpu, core, vsapi);
}

/* A new handle of a semaphore that stands beside a frame's plane, or of a stream's timeline. */
static void VS_CC exportSemaphore(const VSMap *in, VSMap *out, void *userData, VSCore *core, const VSAPI *vsapi) {
    (void)userData;
    char error[512] = "";
    VSVulkanExportedSemaphore exported;
    VkSemaphore semaphore = (VkSemaphore)(uintptr_t)vsapi->mapGetInt(in, "semaphore", 0, NULL);
    if (vsapi->getVulkanAPI()->exportGPUSemaphore(core, semaphore, &exported, error, sizeof(error)))
        vsapi->mapSetError(out, error);
    else
        vsapi->mapSetInt(out, "handle", (int64_t)exported.handle, maReplace);
}

VS_EXTERNAL_API(void) VapourSynthPluginInit2(VSPlugin *plugin, const VSPLUGINAPI *vspapi) {
    vspapi->configPlugin("io.vsflashsr.stream", "vsflashsr", "Frames of a streaming model, requested and never waited for",
                         VS_MAKE_VERSION(1, 0), VAPOURSYNTH_API_VERSION, 0, plugin);
    vspapi->registerFunction("Stream",
                             "clip:vnode;width:int;height:int;half:int:opt;plan:func;take:func;step:func;deliver:func;drop:func;",
                             "clip:vnode;", createStream, NULL, plugin);
    vspapi->registerFunction("GPUStream",
                             "clip:vnode:gpu;width:int;height:int;half:int:opt;plan:func;take:func;step:func;deliver:func;drop:func;"
                             "wait:int;reserve:int;",
                             "clip:vnode:gpu;", createGPUStream, NULL, plugin);
    vspapi->registerFunction("GPUSemaphore", "semaphore:int;", "handle:int;", exportSemaphore, NULL, plugin);
}
