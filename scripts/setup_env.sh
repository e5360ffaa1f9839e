# shellcheck shell=bash
# Sets up what demo.sh and test.sh need: the Python environment in .venv and programs from the system's packages.
# Sourced, not run. Sets $root; after `setup_env` also $py, $vspipe, and the environment vspipe needs.

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
venv="$root/.venv"
py="$venv/bin/python"

say() { printf '%s\n' "$*" >&2; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Succeeds if $1 can run VapourSynth: Python >= 3.12 whose libpython vspipe can load. Else prints what it lacks:
# version, libpython or venv.
python_lacks() {
    "$1" -c '
import ctypes, importlib.util, os, sys, sysconfig
if sys.version_info < (3, 12) or sys.implementation.name != "cpython":
    sys.exit("version")
var = sysconfig.get_config_var
name, folder = var("INSTSONAME") or var("LDLIBRARY") or "", var("LIBDIR") or ""
folders = (folder, os.path.join(folder, var("MULTIARCH") or ""), os.path.join(sys.base_prefix, "lib"), "")
for candidate in (os.path.join(path, name) for path in folders):
    try:
        if ".so" in name or ".dylib" in name:
            ctypes.CDLL(candidate)
            break
    except OSError:
        pass
else:
    sys.exit("libpython")
if importlib.util.find_spec("ensurepip") is None:
    sys.exit("venv")
' 2>&1
}

python_candidates() {
    local minor path
    printf '%s\n' "${PYTHON:-}"
    for minor in 3.12 3.13 3.14; do
        command -v "python$minor" || true
        for path in "${PYENV_ROOT:-${HOME:-/root}/.pyenv}"/versions/"$minor"*/bin/python3; do
            printf '%s\n' "$path"
        done
        if command -v uv >/dev/null; then uv python find --no-project "$minor" 2>/dev/null || true; fi
    done
    command -v python3 || true
}

# Prints the path of a Python that can run VapourSynth.
find_python() {
    local candidate lack almost="" almost_lack=""
    while IFS= read -r candidate; do
        [[ -n $candidate && -x $candidate ]] || continue
        # A pyenv shim answers for the version chosen in the working directory: ask it for the real path.
        candidate="$(cd -- "$root" && "$candidate" -c 'import sys; print(sys.executable)' 2>/dev/null)" || continue
        lack="$(python_lacks "$candidate")" && {
            printf '%s\n' "$candidate"
            return
        }
        [[ $lack == libpython || $lack == venv ]] && [[ -z $almost ]] && almost="$candidate" almost_lack="$lack"
    done < <(python_candidates)
    if [[ -z $almost ]] && command -v uv >/dev/null && uv python install 3.12 >/dev/null 2>&1; then
        uv python find --no-project 3.12 && return
    fi
    if [[ $almost == /usr/bin/* ]]; then # the distribution's own Python comes in pieces
        local version
        version="$("$almost" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
        need_packages "libpython$version" "python$version-venv"
        lack="$(python_lacks "$almost")" && {
            printf '%s\n' "$almost"
            return
        }
        almost_lack="$lack"
    fi
    case $almost_lack in
        libpython) die "VapourSynth needs a Python with a shared libpython, got $almost without one; rebuild it with --enable-shared or set PYTHON to another." ;;
        venv) die "Python's venv module is needed, got $almost without it; install python3-venv." ;;
        *) die "VapourSynth needs Python 3.12 or newer, found none; install it (python3.12, pyenv install 3.12 or uv python install 3.12) or set PYTHON to its path." ;;
    esac
}

# Installs Debian packages, e.g. need_packages x265 ffmpeg.
need_packages() {
    command -v apt-get >/dev/null || die "missing $*, and there is no apt-get here; install them with your system's package manager."
    local as_root=()
    if [[ $(id -u) -ne 0 ]]; then
        command -v sudo >/dev/null || die "missing $*, and installing needs root or sudo; run: apt-get install $*"
        as_root=(sudo)
    fi
    say "[setup] installing $* from the system's packages"
    local log
    log="$(mktemp)"
    if ! { "${as_root[@]}" apt-get update && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1; then
        tail -n 5 -- "$log" >&2
        rm -f -- "$log"
        die "the system's packages could not be installed, wanted $*; run: apt-get install $*"
    fi
    rm -f -- "$log"
}

# Makes sure that the given programs exist.
need_programs() {
    local program missing=()
    for program in "$@"; do
        command -v "$program" >/dev/null && continue
        case $program in
            mkvmerge) missing+=(mkvtoolnix) ;;
            SvtAv1EncApp) missing+=(svt-av1) ;;
            *) missing+=("$program") ;; # the package has the program's name
        esac
    done
    [[ ${#missing[@]} -eq 0 ]] || need_packages "${missing[@]}"
}

# pip_install LOG ARGUMENT... : installs into .venv, with uv where it is to be had (it is many times faster).
pip_install() {
    local log="$1" uv=""
    shift
    if [[ -x $venv/bin/uv ]]; then uv="$venv/bin/uv"; elif command -v uv >/dev/null; then uv="$(command -v uv)"; fi
    cd -- "$root" || return 1
    if [[ -n $uv ]] && "$uv" pip install --python "$py" "$@" >>"$log" 2>&1; then return; fi
    "$py" -m pip install "$@" >>"$log" 2>&1
}

# Makes sure of a working .venv. One that it made itself (.root says so) it replaces when it broke: its Python went away,
# the folder was moved. One that the user made it takes as it is.
create_venv() {
    local lack="its Python doesn't start" python
    if [[ -x $py && "$("$py" -c 'import sys; print(sys.prefix)' 2>/dev/null)" == "$venv" ]]; then
        lack="$(python_lacks "$py")" && [[ ! -e $venv/.root || "$(cat -- "$venv/.root")" == "$root" ]] && return
    fi
    if [[ -e $venv && ! -e $venv/.root ]]; then
        die "the environment can't be used, got $venv (${lack/version/its Python is older than 3.12}); remove it and run this again."
    fi
    python="$(find_python)" || exit 1
    say "[setup] creating .venv with $("$python" --version) ($python)"
    rm -rf -- "$venv"
    mkdir -p -- "$venv"
    printf '%s\n' "$root" >"$venv/.root"
    "$python" -m venv "$venv" >/dev/null || die "the environment could not be created in $venv; install python3-venv."
}

# pip that knows dependency groups, and uv for speed; the log begins here.
update_pip() {
    [[ -e $venv/.stamp-pip ]] && return
    if ! "$py" -m pip --version >/dev/null 2>&1; then # a venv of uv's
        command -v uv >/dev/null && return
        "$py" -m ensurepip >"$venv/setup.log" 2>&1 || die "the environment has no pip, got $venv; remove it and run this again."
    fi
    "$py" -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1" >"$venv/setup.log" 2>&1 ||
        { tail -n 20 -- "$venv/setup.log" >&2; die "pip could not be brought to 25.1; is there a network? The log is $venv/setup.log"; }
    command -v uv >/dev/null || "$py" -m pip install --quiet --disable-pip-version-check uv >>"$venv/setup.log" 2>&1 || true
    : >"$venv/.stamp-pip"
}

# once NAME ARGUMENT... : pip_install, skipped if it was done for the present pyproject.toml and the plugin's present source.
once() {
    local stamp="$venv/.stamp-$1" want
    shift
    want="$(printf '%s\n' "$*" | cat - "$root/pyproject.toml" "$root/hatch_build.py" "$root"/vsflashsr/native/* | sha256sum)"
    [[ "$(cat -- "$stamp" 2>/dev/null)" == "$want" ]] && return
    (pip_install "$venv/setup.log" "$@") || return 1
    printf '%s\n' "$want" >"$stamp"
}

# setup_env NAME ARGUMENT... : the environment, with what `pip install ARGUMENT...` gives.
setup_env() {
    local name="$1" started=$SECONDS
    mkdir -p -- "$root/.cache"
    # Two scripts started together must not install into one folder.
    exec 9>"$root/.cache/setup.lock"
    if command -v flock >/dev/null; then flock 9; fi
    create_venv
    update_pip
    if [[ ! -e $venv/.stamp-$name ]]; then say "[setup] installing vsflashsr and what it needs (first run only)"; fi
    once "$@" || { tail -n 20 -- "$venv/setup.log" >&2; die "the Python packages could not be installed; the whole log is $venv/setup.log"; }
    # vspipe looks up its Python in a configuration file: keep ours inside .venv, not in the user's home.
    # shellcheck disable=SC2034  # demo.sh uses it
    vspipe="$("$py" -c 'import pathlib, vapoursynth; print(pathlib.Path(vapoursynth.__file__).with_name("vspipe"))')"
    if [[ ! -e $venv/etc/vapoursynth/vapoursynth.toml ]]; then
        mkdir -p -- "$venv/etc"
        XDG_CONFIG_HOME="$venv/etc" "$py" -m vapoursynth config >>"$venv/setup.log" 2>&1
    fi
    exec 9>&-
    if ((SECONDS - started > 5)); then say "[setup] done in $((SECONDS - started)) s"; fi
}

# optional EXTRA ARGUMENT... : as setup_env, after it, for what the rest can do without; fails quietly.
optional() {
    [[ -e $venv/.stamp-$1 ]] || say "[setup] installing the extra $1 (first run only; it may be large)"
    once "$@" && return
    say "[setup] the extra $1 could not be installed; the log is $venv/setup.log"
    return 1
}

# After this, `vspipe` and `python` are the environment's. Not earlier: pip and uv read XDG_CONFIG_HOME too.
enter_env() {
    export VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH" XDG_CONFIG_HOME="$venv/etc"
    # bestsource keeps its index in $XDG_CACHE_HOME/bsindex, but in ~/bsindex if that isn't set.
    export XDG_CACHE_HOME="${XDG_CACHE_HOME:-${HOME:-$root}/.cache}"
    # In an ASCII locale vspipe's Python can't even start from a folder with other letters in its name.
    if [[ "$(locale charmap 2>/dev/null)" != UTF-8 ]]; then export LC_ALL=C.UTF-8; fi
    unset PYTHONHOME PYTHONPATH
}
