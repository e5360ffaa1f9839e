#!/usr/bin/env bash
# Software Vulkan 1.4 for the tests of resident frames, in a folder of its own: Mesa's lavapipe from Debian's backports and a
# loader built from Debian's source (Debian 12 has 1.3; VapourSynth needs 1.4). Nothing on the system changes.
#
# Usage: eval "$(scripts/setup_lavapipe.sh)"     prints the exports that point a process to it; once set up, at once
#   VSFLASHSR_LAVAPIPE=FOLDER     where it goes (default: .cache/lavapipe): lvp_icd.json, and all libraries in lib
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
folder="${VSFLASHSR_LAVAPIPE:-$root/.cache/lavapipe}"
say() { printf '[lavapipe] %s\n' "$*" >&2; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

exports() {
    printf 'export VK_DRIVER_FILES=%q\n' "$folder/lvp_icd.json"
    printf 'export LD_LIBRARY_PATH=%q"${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"\n' "$folder/lib"
}

if [[ -e $folder/lvp_icd.json ]]; then
    exports
    exit
fi
for program in apt-get dpkg dpkg-architecture cmake ninja cc python3 tar; do
    command -v "$program" >/dev/null || die "needs $program, got none; on Debian install dpkg-dev, cmake, ninja-build, gcc and python3."
done
started=$SECONDS
rm -rf -- "$folder"
mkdir -p -- "$folder"/{apt/lists/partial,apt/archives/partial,apt/parts,mesa,headers,source,build,loader}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
# The mirror that the system itself installs from.
mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }')"
[[ -n $mirror ]] || die "apt knows no mirror, got none from apt-get indextargets; run apt-get update first."
for suite in bookworm bookworm-backports trixie; do
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite"
done >"$folder/apt/sources.list"
printf 'deb-src [signed-by=%s] %s trixie main\n' "$keyring" "$mirror" >>"$folder/apt/sources.list"
# Only what is asked for by name comes from trixie.
printf 'Package: *\nPin: release n=trixie\nPin-Priority: 1\n' >"$folder/apt/preferences"
apt=(
    -o "Dir::State::lists=$folder/apt/lists" -o "Dir::Cache::archives=$folder/apt/archives" -o "Dir::Cache::pkgcache="
    -o "Dir::Cache::srcpkgcache=" -o "Dir::Etc::sourcelist=$folder/apt/sources.list" -o "Dir::Etc::sourceparts=$folder/apt/parts"
    -o "Dir::Etc::preferences=$folder/apt/preferences" -o "Dir::Etc::preferencesparts=$folder/apt/parts" -o APT::Sandbox::User=root
    -o Debug::NoLocking=true
)
say "fetching Mesa and the loader's source"
apt-get "${apt[@]}" update -qq >&2
apt-get "${apt[@]}" install --download-only --reinstall -y -qq --no-install-recommends -t bookworm-backports mesa-vulkan-drivers >&2
for package in "$folder"/apt/archives/*.deb; do dpkg -x "$package" "$folder/mesa"; done
(cd -- "$folder/headers" && apt-get "${apt[@]}" download -qq libvulkan-dev/trixie >&2 && dpkg -x ./libvulkan-dev*.deb .)
(cd -- "$folder/source" && apt-get "${apt[@]}" source --download-only -qq vulkan-loader/trixie >&2 && tar -xf ./*.orig.tar.* --strip-components=1)

say "building the loader"
mkdir -p -- "$folder/source/loader/generated"
(cd -- "$folder/source" && python3 scripts/generate_source.py "$folder/headers/usr/share/vulkan/registry") >"$folder/build.log" 2>&1 ||
    { tail -n 20 -- "$folder/build.log" >&2; die "the loader's source could not be generated; the log is $folder/build.log"; }
cmake -S "$folder/source" -B "$folder/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$folder/loader" \
    -DCMAKE_INSTALL_LIBDIR=lib -DVULKAN_HEADERS_INSTALL_DIR="$folder/headers/usr" -DUSE_GAS=OFF -DBUILD_TESTS=OFF \
    -DBUILD_WSI_XCB_SUPPORT=OFF -DBUILD_WSI_XLIB_SUPPORT=OFF -DBUILD_WSI_WAYLAND_SUPPORT=OFF -DBUILD_WSI_DIRECTFB_SUPPORT=OFF \
    >>"$folder/build.log" 2>&1 && ninja -C "$folder/build" install >>"$folder/build.log" 2>&1 ||
    { tail -n 20 -- "$folder/build.log" >&2; die "the loader could not be built; the log is $folder/build.log"; }
mkdir -p -- "$folder/lib"
libraries="$folder/mesa/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)"
cp -a -- "$folder"/loader/lib/libvulkan.so* "$libraries"/*.so* "$folder/lib/"
# Where LLVM isn't installed it came too, in a folder that links point to.
for library in "$folder"/mesa/usr/lib/llvm-*/lib/*.so*; do
    if [[ -e $library ]]; then cp -a --remove-destination -- "$library" "$folder/lib/"; fi
done
icd="$(find "$folder/mesa/usr/share/vulkan/icd.d" -name 'lvp_icd*.json' | head -n 1)"
# A path with a slash is looked up from where the file lies. This file says that all is there, so it comes last.
sed 's|"library_path": *"[^"]*"|"library_path": "lib/libvulkan_lvp.so"|' "$icd" >"$folder/lvp_icd.json.new"
rm -rf -- "$folder"/{apt,source,build,headers,mesa,loader}
mv -- "$folder/lvp_icd.json.new" "$folder/lvp_icd.json"
say "done in $((SECONDS - started)) s"
exports
