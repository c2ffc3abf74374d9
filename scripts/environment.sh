# Sets up the environment that ./serve and ./run-tests work in. Sourced by them, from the repository's root.

environment=.venv
python=$environment/bin/python

# Print a step, so that a person knows what takes time.
say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }

# Find a Python that the package supports and that can make environments.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.11 python3.12 python3.13; do
        if [ -n "$candidate" ] && "$candidate" -c '
import ensurepip, sys, venv
sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    say "No Python 3.11, 3.12 or 3.13 with venv was found."
    say "Install one (Debian: apt install python3 python3-venv), or name one: PYTHON=/path/to/python $0"
    return 1
}

# Install torch's CPU build unless there is a torch: PyPI's brings several GB of CUDA. Look where pip is told to look
# (PIP_FIND_LINKS) before torch's own index, since no other index has this build.
cpu_torch=torch==2.13.0+cpu
install_cpu_torch() {
    "$python" -c 'import importlib.metadata as m; m.version("torch")' 2>/dev/null && return
    say "Installing $cpu_torch (200 MB)"
    "$python" -m pip install --disable-pip-version-check --quiet "$cpu_torch" 2>/dev/null ||
        "$python" -m pip install --disable-pip-version-check --quiet "$cpu_torch" \
            --index-url https://download.pytorch.org/whl/cpu
}

# Install the package with the extras named, e.g. "" or "dev,minicpmo". Does nothing when pyproject.toml is what it was.
prepare() {
    local extras=$1 found stamp now quiet=--quiet
    if [ ! -x "$python" ] || ! "$python" -c '' 2>/dev/null; then
        found=$(find_python)
        say "Making $environment with $("$found" --version)"
        "$found" -m venv --clear "$environment"
    fi
    if [[ ,$extras, == *,minicpmo,* ]] && ! install_cpu_torch; then
        say "SKIPPED: what needs torch, because $cpu_torch was not found for $("$python" --version)"
        extras=${extras/,minicpmo/}
    fi
    stamp=$environment/installed-${extras:-core}
    now=$(cat pyproject.toml duplex_server/__init__.py | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$now" ]; then
        say "Installing duplex-server${extras:+[$extras]} and what it needs (a few minutes the first time)"
        [ -t 2 ] && quiet=  # a person sees what is going on
        "$python" -m pip install --disable-pip-version-check $quiet --editable ".${extras:+[$extras]}"
        printf '%s\n' "$now" >"$stamp"
    fi
}
