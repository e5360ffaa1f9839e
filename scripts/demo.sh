#!/usr/bin/env bash
# The main job, from a fresh machine to a playable file: sets up all it needs, then
# interlaced clip -> bestsource -> bwdif -> flashsr -> vspipe -> x265 -> .mkv, and a before/after picture.
#
# Usage: scripts/demo.sh [INPUT] [SCALE]      (default: samples/clips/bbb_480i.mpg, 2)
#   DEMO_FRAMES=N   encode only the first N frames
#   DEMO_OUT=DIR    where the results go (default: .demo in the repository)
#   PYTHON=PATH     the Python to make the environment from
set -euo pipefail
# shellcheck source=scripts/setup_env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup_env.sh"

case ${1:-} in -h | --help) sed -n '2,8s/^# \{0,1\}//p' -- "${BASH_SOURCE[0]}" && exit ;; esac
input="$(realpath -m -- "${1:-$root/samples/clips/bbb_480i.mpg}")"
scale="${2:-2}"
frames="${DEMO_FRAMES:-}"
[[ -r $input && -f $input ]] || die "the input can't be read, got $input; give the path of a video file."
[[ $scale =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "scale must be a number, got $scale; give one above 1 and up to 4."
[[ -z $frames || $frames =~ ^[1-9][0-9]*$ ]] || die "DEMO_FRAMES must be a whole number from 1, got $frames; leave it empty for all frames."
out="$(realpath -m -- "${DEMO_OUT:-$root/.demo}")"
mkdir -p -- "$out" || die "the folder for the results can't be made, got $out; set DEMO_OUT to another."

need_programs x265 ffmpeg mkvmerge
setup_env samples -e ".[samples]"
enter_env

script="$root/samples/deinterlace_dvd.vpy"
arguments=(-a "input=$input" -a "scale=$scale")
name="$(basename -- "${input%.*}")_x$scale"
stream="$out/$name.hevc"
video="$out/$name.mkv"
picture="$out/${name}_before_after.png"
rm -f -- "$stream" "$video" "$picture"
trap 'rm -f -- "$stream"' EXIT

# y4m carries neither matrix nor range nor the pixels' shape, so the encoder is told what the frames say of themselves.
flags="$("$py" -m vsflashsr flags "${arguments[@]}" "$script")" || die "the script could not be run, got the error above; see what it asks for."
read -ra colour <<<"$flags"

say "[demo] $input"
say "[demo] vspipe samples/deinterlace_dvd.vpy | x265 --preset fast --crf 18 --output-depth 10 $flags"
range=()
[[ -z $frames ]] || range=(-e "$((frames - 1))")
started=$EPOCHREALTIME
set +e
"$vspipe" --progress -c y4m "${range[@]}" "${arguments[@]}" "$script" - |
    x265 --y4m --input - --preset fast --crf 18 --output-depth 10 "${colour[@]}" \
        --no-progress --log-level warning --output "$stream"
status=("${PIPESTATUS[@]}")
set -e
seconds="$(printf '%s\n' "$EPOCHREALTIME $started" | tr , . | awk '{ printf "%.2f", $1 - $2 }')"
# An encoder that dies takes vspipe with it, so it is named first.
[[ ${status[1]} -eq 0 ]] || die "x265 failed with exit code ${status[1]} (vspipe: ${status[0]}); its message is above."
[[ ${status[0]} -eq 0 ]] || die "vspipe failed with exit code ${status[0]}; its message is above."

# A raw HEVC stream has no timestamps. mkvmerge derives them from the pictures' order; ffmpeg 5 -c copy can't.
mkvmerge --quiet --output "$video" "$stream" >&2 || die "mkvmerge failed, got no $video; its message is above."

"$py" "$root/scripts/demo.py" --script "$script" --input "$input" --scale "$scale" --seconds "$seconds" \
    ${frames:+--frames "$frames"} --flags="$flags" "$video" "$picture"
