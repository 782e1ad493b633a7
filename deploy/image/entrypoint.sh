#!/bin/sh
# The image holds the compiled loops twice: for processors with AVX2 (x86-64-v3) and for any other. Numba looks for
# them by these two names, so that nothing is compiled when a container starts.
set -eu
NUMBA_CPU_NAME=x86-64-v3
flags=" $(grep -m1 '^flags' /proc/cpuinfo || true) "
for flag in avx2 bmi1 bmi2 f16c fma abm movbe xsave; do
    case $flags in *" $flag "*) ;; *) NUMBA_CPU_NAME=generic ;; esac
done
export NUMBA_CPU_NAME NUMBA_CPU_FEATURES=
exec carryover "$@"
