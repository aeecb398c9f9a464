#!/bin/sh
# ranks.sh MODEL [TOKENS]: compares two ranks on this machine, each with memory for a bit more than half of a mixture, with
# one process that has as much memory as one rank, and with one that has room for all of it. All three use the same total
# number of threads (THREADS; default: all cores) and must give the same answer. PERCENT is a rank's memory in per cent of
# the file (default: 55). Each rank is in its own memory cgroup (in-cgroup); with LIMITS=memory, for systems without
# cgroups, only --memory limits it. READ=BYTES limits the bytes per second that all ranks together read from the drive
# (cgroup v1, blkio). Without it, a fast drive may hide the cost of too little memory.
#
# Experts that a rank has room for are read when they are first used, which counts as decoding. With ROUNDS=N, each run answers
# N times, the median counts, and no answers are compared: the speed once the memory is full.
#
# Needs root for cgroups, mpirun (Open MPI), and python3. HYPURA: the program (default: build/hypura).
set -eu
model=$1
tokens=${2:-64}
here=$(dirname "$0")
hypura=${HYPURA:-$here/../build/hypura}
size=$(stat -L -c %s "$model")
half=$((size * ${PERCENT:-55} / 100))
threads=${THREADS:-$(nproc)}
work=$(mktemp -d)
blkio=
clean_up() {
    [ -z "$blkio" ] || rmdir "$blkio" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
if [ -n "${READ:-}" ]; then
    blkio=/sys/fs/cgroup/blkio/hypura-ranks-$$
    mkdir "$blkio"
    device=$(stat -L -c %d "$model")
    echo "$((device / 256)):$((device % 256)) $READ" >"$blkio/blkio.throttle.read_bps_device"
    echo $$ >"$blkio/cgroup.procs"
    trap 'echo $$ >/sys/fs/cgroup/blkio/cgroup.procs; clean_up' EXIT
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# NAME LIMIT THREADS STARTER...: one run. The group's limit is 64 MiB above the budget, for code that processes share.
measure() {
    name=$1 limit=$2 each=$3
    shift 3
    [ "${LIMITS:-group}" = memory ] || set -- "$@" sh "$here/in-cgroup" $((limit + (64 << 20)))
    if [ -n "${ROUNDS:-}" ]; then
        "$@" "$hypura" bench "$model" --memory "$limit" --threads "$each" --prompt-tokens 16 --gen-tokens "$tokens" --repeat "$ROUNDS" \
            --gpu none --no-state --json 2>"$work/errors" >"$work/$name.json" </dev/null || { cat "$work/errors" >&2; exit 1; }
        python3 -c "import json; print('%-28s %8.2f tokens/s' % ('$name', json.load(open('$work/$name.json'))['decode_tokens_per_second']))"
        return
    fi
    "$@" "$hypura" run "$model" --raw --prompt "one two three" --temperature 0 \
        --ignore-eos --max-tokens "$tokens" --context 512 --memory "$limit" --no-state --gpu none --threads "$each" --stats "$work/$name.json" \
        >"$work/$name.txt" </dev/null
    python3 -c "
import json, sys
s = json.load(open('$work/$name.json'))
print('%-28s %8.2f tokens/s, %6.1f MB read a token' % ('$name', s['decode_tokens_per_second'], s['decode_bytes_read'] / 1e6 / max(s['decode_passes'], 1)))
if s['hosts']:
    print('   expected: %.2f tokens/s' % s['hosts_expected_tokens_per_second'])
for h in s['hosts']:
    print('   %-32s %8d experts, %8.1f MB read, waited for %6.2f s' % (h['name'], h['experts_computed'], h['bytes_read'] / 1e6, h['wait_seconds']))"
}
measure one-with-half "$half" "$threads"
measure two-with-half-each "$half" $(((threads + 1) / 2)) mpirun --oversubscribe --bind-to none -n 2
measure one-with-all $((size * 2)) "$threads"
[ -z "${ROUNDS:-}" ] || exit 0
cmp "$work/one-with-half.txt" "$work/two-with-half-each.txt"
cmp "$work/one-with-half.txt" "$work/one-with-all.txt"
echo "the answers are the same"
