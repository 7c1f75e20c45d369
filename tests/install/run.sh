#!/usr/bin/env bash
# run.sh BUILD SOURCE: installs the SDK of the build folder into an empty place, builds the example plugins against it
# with nothing else to help them, and asks the program what it makes of them.
set -euo pipefail

build=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export BIOPHONY_CACHE=$work/cache
fail() { echo "install test: $1" >&2; exit 1; }

cmake --install "$build" --prefix "$work/sdk" --component sdk >"$work/install.log"
[[ -f $work/sdk/include/biophony/c/spine.h ]] || fail "no headers were installed"
[[ -z $(find "$work/sdk" -name '*.so' -o -name '*.a') ]] || fail "the SDK brings libraries along"
# Nothing in it may lead back to where it was made.
! grep -rlF -e "$source" -e "$build" "$work/sdk" || fail "the files above name the build or source folder"

mkdir "$work/plugins"
for example in dataset-labtable merger-median; do
    cp -r "$source/examples/plugins/$example" "$work/$example"
    cmake -S "$work/$example" -B "$work/$example/build" -G Ninja -DCMAKE_PREFIX_PATH="$work/sdk" \
        -DCMAKE_CXX_COMPILER_LAUNCHER="$(command -v ccache || true)" >"$work/$example.log" 2>&1 ||
        { cat "$work/$example.log"; fail "$example: cmake"; }
    cmake --build "$work/$example/build" >"$work/$example.log" 2>&1 || { cat "$work/$example.log"; fail "$example: build"; }
    cp "$work/$example/build/plugins/$example.so" "$work/plugins/"
done

if [[ -x $build/bin/biophony ]]; then
    "$build/bin/biophony" plugins --plugin-path "$work/plugins" | tee "$work/listed"
    for item in dataset:labtable merger:median; do
        grep -q "^$item " "$work/listed" || fail "biophony plugins doesn't list $item"
    done
    ! grep -F "$work/plugins" "$work/listed" || fail "a plugin was refused, or noted"
    "$build/bin/biophony" inspect "$work/plugins/merger-median.so" | tee "$work/inspected"
    grep -q ': ok$' "$work/inspected" || fail "biophony inspect doesn't take merger-median.so"
else
    for plugin in "$work"/plugins/*.so; do
        [[ $("$build/bin/plugin_helper" probe "$plugin") == '{"ok":true}' ]] || fail "$plugin was refused"
    done
fi
echo "the SDK installs alone, and both examples are plugins"
