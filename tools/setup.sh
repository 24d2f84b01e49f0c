#!/bin/sh
# Make everything ready: .venv with jepa and its dependencies, and OpenGL for rendering without a screen.
# A second call finds its stamp and ends at once. PYTHON=/path/to/python3 chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."

python=.venv/bin/python
stamp=.venv/ready
state="$(cat pyproject.toml constraints.txt tools/setup.sh | cksum) $(pwd -P)"

# A pip.conf that installs into the home directory would end in an error inside a virtual environment.
PIP_USER=0
DEBIAN_FRONTEND=noninteractive
export PIP_USER DEBIAN_FRONTEND
# Containers set this; then every process would compile torch's sources anew.
unset PYTHONDONTWRITEBYTECODE

say() { printf '%s\n' "setup: $*" >&2; }
fail() { say "$*"; exit 1; }
may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
has_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

# 3.12 and 3.11 first: all dependencies have wheels there, and they are what is tested.
find_python() {
    for usable in has_venv true; do
        for name in ${PYTHON:-python3.12 python3.11 python3.13 python3.14 python3 python}; do
            if new_enough "$name" && "$usable" "$name"; then
                command -v "$name"
                return
            fi
        done
    done
}

make_venv() {
    base="$(find_python)"
    [ -n "$base" ] || fail "Python 3.11 or newer is needed${PYTHON:+ (PYTHON=$PYTHON is not)}:" \
        "install it, or name it as in: make demo PYTHON=/path/to/python3.12"
    if ! has_venv "$base"; then
        package="$("$base" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
        if may_install; then
            apt-get update -qq && apt-get install -y "$package" || say "that failed"
        fi
        has_venv "$base" || fail "$base cannot make virtual environments;" \
            "install its module: sudo apt-get install -y $package"
    fi
    say "making .venv with $("$base" --version 2>&1) ($base)"
    "$base" -m venv --clear .venv
}

pip_install() { "$python" -m pip install --disable-pip-version-check -c constraints.txt "$@"; }
uv_install() { .venv/bin/uv pip install --python "$python" -c constraints.txt "$@"; }

install() {
    # torch's CUDA libraries: 3 GB of wheels that unpack to 6; a cache would keep them a second time.
    free_kib="$(df -Pk . | awk 'NR == 2 { print $4 }')"
    if [ "$free_kib" -lt 16000000 ]; then
        PIP_NO_CACHE_DIR=1
        UV_NO_CACHE=1
        export PIP_NO_CACHE_DIR UV_NO_CACHE
    fi
    [ "$free_kib" -gt 10000000 ] ||
        say "only $((free_kib / 1048576)) GiB of disk are free here; installing torch with its CUDA libraries takes about 10"
    say "installing dependencies into .venv (one to five minutes, once)"
    # uv downloads and unpacks in parallel: half a minute where pip takes four. pip.conf it does not read.
    if pip_install -q uv && uv_install -e '.[dev]'; then
        installer=uv_install
    else
        say "uv cannot install here; pip tries"
        installer=pip_install
        pip_install -e '.[dev]'
    fi
    # labmaze, which only dm-control's mazes use, has no wheel for 3.13; pyproject.toml lists the rest.
    "$python" -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || "$installer" --no-deps dm-control
}

can_draw() { "$python" -c 'from commands.doctor import draw_scene; draw_scene()' >/dev/null 2>&1; }

check_opengl() {
    if can_draw; then
        return
    fi
    hint="$("$python" -c 'from envs.rendering import get_install_command; print(get_install_command())')"
    if may_install; then
        say "installing OpenGL: $hint"
        sh -c "$hint" || say "that failed"
    fi
    can_draw || fail "rendering does not work here (.venv/bin/jepa doctor says why); install OpenGL with: $hint"
}

# Modules that most commands import, so that the first of them starts as fast as the next. uv compiles none.
compile_modules() { "$python" -c 'import matplotlib.pyplot, torch._dynamo, commands.compare, commands.demo'; }

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ] && [ -x "$python" ]; then
    exit 0
fi
# Scripts in .venv hold the folder's path: a clone that was moved needs a new one.
case "$(cat "$stamp" 2>/dev/null)" in
"" | *" $(pwd -P)") ;;
*) make_venv ;;
esac
"$python" -m pip --version >/dev/null 2>&1 && new_enough "$python" || make_venv
install
check_opengl
compile_modules
printf '%s\n' "$state" >"$stamp"
say "ready; the command is .venv/bin/jepa"
