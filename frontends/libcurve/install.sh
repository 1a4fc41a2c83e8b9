#!/bin/sh
# install.sh PREFIX SHARED [STATIC]: puts headers and libraries where a program's build looks for them.
#
#   PREFIX/include/libcurve.h …            #include <libcurve.h>
#   PREFIX/include/include/client → ..     #include "include/client/libcurve.h", with -I PREFIX/include
#   PREFIX/lib/libcurve.so → libcurve.so.1, libcurve.a
#   PREFIX/lib/libcbd.so, libcurve_client.so → libcurve.so     for builds that name the original's parts
set -eu
prefix=$1 shared=$2 static=${3-}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$prefix/include/include" "$prefix/lib"
install -m 644 "$here"/include/*.h "$prefix/include/"
ln -sfn .. "$prefix/include/include/client"
install -m 755 "$shared" "$prefix/lib/libcurve.so.1"
ln -sf libcurve.so.1 "$prefix/lib/libcurve.so"
if [ -n "$static" ]; then
    install -m 644 "$static" "$prefix/lib/libcurve.a"
fi
for name in cbd curve_client; do
    ln -sf libcurve.so "$prefix/lib/lib$name.so"
    if [ -n "$static" ]; then
        ln -sf libcurve.a "$prefix/lib/lib$name.a"
    fi
done
