# For the run scripts, to be sourced: install the Debian packages that are missing, and only those.
install_missing() {
    missing=
    for package in "$@"; do
        state=$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) || state=
        [ "$state" = "ii " ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null; then
        echo "$0: please install$missing: this script only knows Debian and Ubuntu" >&2
        exit 1
    fi
    root=
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "$0: installing$missing needs root, or sudo" >&2
            exit 1
        fi
        root="sudo env"
    fi
    ${root:-env} DEBIAN_FRONTEND=noninteractive apt-get update -qq
    # shellcheck disable=SC2086 # words, one a package
    ${root:-env} DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
}
