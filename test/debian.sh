# shellcheck shell=bash
# For the scripts in this folder that take PostgreSQL from other Debian suites than the machine's, or run it in namespaces
# of their own: the mirror, the cache and its locks. Comes after lib.sh.

# Let set -e hold in command substitutions too.
shopt -s inherit_errexit

# What is kept between runs. A folder there is complete or not there: it is made under another name and renamed.
cache=${TESTDB_CACHE:-$cache}

# Set by find_mirror().
mirror=''

# suite_of MAJOR: prints the Debian suite that has this major; fails if none does.
suite_of() {
    case $1 in
    15) echo bookworm ;;
    17) echo trixie ;;
    18) echo forky ;;
    19) echo experimental ;;
    *) return 1 ;;
    esac
}

# need_missing PACKAGE...: need() for those of the packages that are not installed.
need_missing() {
    local package missing=()
    for package; do
        dpkg-query -W -f '${db:Status-Status} \n' "$package" 2>/dev/null | grep -x 'installed ' >/dev/null ||
            missing+=("$package")
    done
    need "${missing[@]}"
}

# find_mirror: sets $mirror to the Debian mirror that apt is set up with on this machine.
find_mirror() {
    local codename i
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    for i in 1 2; do
        # shellcheck disable=SC2016 # apt fills in REPO_URI
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
            'Origin: Debian' 'Label: Debian' "Codename: $codename" | sed -n '1s,/*$,,p')
        [ -z "$mirror" ] || return 0
        # apt only knows what its mirrors are once it has read their lists.
        [ "$i" -eq 1 ] && [ "$(id -u)" -eq 0 ] && step 'Fetching package lists' apt-get -q update
    done
    die 'apt has no Debian mirror on this machine.'
}

# print_proxy: the proxy that apt is set up with on this machine, if any, as a line of apt's configuration.
print_proxy() {
    local proxy
    proxy=$(apt-config dump --format '%v%n' Acquire::http::Proxy | head -n 1)
    [ -z "$proxy" ] || printf 'Acquire::http::Proxy "%s";\n' "$proxy"
}

# key_of FUNCTION... -- TEXT...: prints a short key of how something is made, for its name in the cache: made otherwise,
# it has another name.
key_of() {
    local functions=()
    while [ "$1" != -- ]; do
        functions+=("$1")
        shift
    done
    { declare -f "${functions[@]}" && printf '%s\n' "$@"; } | sha256sum | cut -c 1-8
}

# lock_cache NAME [--shared]: keeps other runs from making the same thing, or with --shared from replacing it, until
# unlock_cache. What this starts holds the lock as well: if it outlives us, others wait for it.
lock_cache() {
    mkdir -p "$cache"
    exec 9>"$cache/$1.lock"
    flock --nonblock "${2:---exclusive}" 9 && return
    say "Waiting for another run to be done with $1."
    flock "${2:---exclusive}" 9
}

# unlock_cache: undoes lock_cache.
unlock_cache() {
    exec 9>&-
}

# copy_checkout FOLDER: copies the checkout as it is, committed or not, but without what git ignores; all of it where
# there is no git.
copy_checkout() {
    local file git=(git -c 'safe.directory=*' -C "$top")
    mkdir -p "$1"
    if "${git[@]}" rev-parse --git-dir >/dev/null 2>&1; then
        # A file may be gone that git still knows.
        "${git[@]}" ls-files -z --cached --others --exclude-standard |
            while IFS= read -r -d '' file; do
                [ ! -e "$top/$file" ] || printf '%s\0' "$file"
            done |
            tar -C "$top" --null -T - -cf - | tar -C "$1" -xf -
    else
        cp -a "$top/." "$1"
    fi
    chmod -R u=rwX,go=rX "$1"
}

# loopback_up: brings up this network namespace's loopback. By perl, which is everywhere: 0x8914 is SIOCSIFFLAGS, 0x49
# is up, loopback and running.
loopback_up() {
    perl -e 'my $flags = pack("a16 s x22", "lo", 0x49);
        socket(my $socket, 2, 2, 0) or die "socket: $!\n";
        ioctl($socket, 0x8914, $flags) or die "lo: $!\n"'
}

# read_result FILE: sets $passed and $failed to what test/run's last line says. A run without that line has failed,
# whatever it did until then; so has one that tested nothing.
# shellcheck disable=SC2034 # the caller's
read_result() {
    passed=0 failed=0
    if [[ $(tail -n 1 "$1") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
        passed=${BASH_REMATCH[1]} failed=${BASH_REMATCH[2]}
    fi
    [ $((passed + failed)) -gt 0 ] || failed=1
}
