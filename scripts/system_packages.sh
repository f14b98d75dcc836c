#!/bin/sh
# Installs what tests need of the system (tests/needs.py), on Debian or Ubuntu, without starting any
# service: the tests start each program themselves, with a configuration and a port of its own. With
# the argument "browser": what `make lab-check` needs, on Debian.
set -eu
# The last brings PostGIS, the libraries of GeoDjango, and a PostgreSQL with all its extensions.
packages="iproute2 iptables procps locales pgbouncer pgpool2 haproxy uwsgi-plugin-python3 postgresql-postgis"
if [ "${1:-}" = browser ]; then
    packages="chromium fonts-dejavu-core"
    # Debian's npm brings some hundred packages, and does not go with a Node.js from elsewhere.
    command -v npm > /dev/null || packages="$packages npm"
fi

if ! command -v apt-get > /dev/null; then
    echo "There is no apt-get here. Install what corresponds to Debian's $packages." >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "This installs packages: sudo make ${1:-system}-packages" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive

# What apt asks before it starts a service; taken away again, if it was not there before.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
fi
# PostgreSQL's package would make a cluster, which nobody here needs.
if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    mkdir -p /etc/postgresql-common
    { echo "# Written by django-resilient-pg (make system-packages)."; echo "create_main_cluster = false"; } \
        > /etc/postgresql-common/createcluster.conf
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends $packages
[ "${1:-}" != browser ] || exit 0
# Servers and clients that do not speak English.
for language in de_DE fr_FR; do
    localedef -i $language -f UTF-8 $language.UTF-8
done
