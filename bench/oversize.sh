#!/usr/bin/env bash
# Models beyond memory: hypura and llama.cpp in memory cgroups of the same size, with a cold page cache.
#
#   bench/oversize.sh [-t THREADS] [-r ROUNDS] [-n GENERATED_TOKENS] [-f "25 50 75"] [-g] MODEL.gguf...
#
# -f: memory in per cent of the file. -g: touches and frees the memory that the program may use, plus 1 GiB, before each
# run. Without it, a virtual machine's host may take seconds to provide a GiB that was not used recently, which slows down
# whatever phase the program is in. LLAMA_COMPLETION names llama.cpp's command (default: llama-completion on the PATH; it
# may be several words), HYPURA the program. Needs root, to drop the page cache. Prints a Markdown table. "share of the
# limit" is relative to this machine's profile. "of the drive" is the read rate while decoding, relative to the best of
# random reads of 1, 2 and 4 MiB just before and after (a shared drive's speed changes from minute to minute).
set -euo pipefail
here=$(dirname "$0")
threads=2 rounds=1 generate=24 fractions="25 50 75" give=
while getopts t:r:n:f:g option; do
    case $option in
    t) threads=$OPTARG ;;
    r) rounds=$OPTARG ;;
    n) generate=$OPTARG ;;
    f) fractions=$OPTARG ;;
    g) give=1 ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { sed -n '2,11p' "$0"; exit 2; }
read -r -a llama <<<"${LLAMA_COMPLETION:-llama-completion}"
hypura=${HYPURA:-$here/../build/hypura}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
text="The kernel keeps a table of open files for each process. What does it say about the ship, the sea and nine small numbers?"

cold() { # bytes
    sync
    echo 3 >/proc/sys/vm/drop_caches
    [ -z "$give" ] || python3 -c 'import mmap, sys
memory = mmap.mmap(-1, int(sys.argv[1]) + (1 << 30), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(14)  # MADV_HUGEPAGE
memory.madvise(23)  # MADV_POPULATE_WRITE' "$1"
}

drive() { # model
    for block in 1M 2M 4M; do
        "$hypura" iobench "$1" --block $block --depth 8 --seconds 0.4 --json
    done | python3 -c 'import re, sys
print(max(map(float, re.findall(r"\"bytes_per_second\": *([0-9.e+]+)", sys.stdin.read()))))'
}

run_hypura() { # model bytes
    local before after
    before=$(drive "$1")
    cold "$2"
    if "$here/in-cgroup" "$2" "$hypura" run "$1" --memory "$2" --threads "$threads" --raw --prompt "$text" --context 512 \
        --max-tokens "$generate" --ignore-eos --temperature 0.9 --seed 7 --no-state --stats "$work/stats" >"$work/out" 2>"$work/err"; then
        after=$(drive "$1")
        python3 -c 'import json,sys
d = json.load(open(sys.argv[1]))
drive = (float(sys.argv[2]) + float(sys.argv[3])) / 2
print(d["decode_tokens_per_second"], d["peak_rss_bytes"] / d["budget_bytes"], d.get("share_of_limit", 0),
      d["decode_bytes_read"] / d["decode_seconds"] / drive)' "$work/stats" "$before" "$after"
    else
        echo "0 0 0 0"
    fi
}

run_llama() { # model bytes
    cold "$2"
    "$here/in-cgroup" "$2" "${llama[@]}" -m "$1" -t "$threads" -c 512 -n "$generate" --ignore-eos --temp 0.9 -s 7 -no-cnv \
        --no-repack -p "$text" >"$work/out" 2>"$work/err" || true
    # Find "eval time = ... ms / N runs ( ... ms per token, X tokens per second)", but not the prompt's line.
    sed -n 's/.*[^t] eval time = .*( *[0-9.]* ms per token, *\([0-9.]*\) tokens per second).*/\1/p' "$work/err" "$work/out" |
        tail -n 1 | grep . || echo 0
}

echo "| model | memory | hypura, tokens/s | llama.cpp mmap | ratio | peak / budget | share of the limit | of the drive |"
echo "|---|---|---|---|---|---|---|---|"
for model in "$@"; do
    size=$(stat -L -c %s "$model")
    for fraction in $fractions; do
        bytes=$((size * fraction / 100))
        for ((round = 0; round < rounds; round++)); do
            echo "$(run_hypura "$model" "$bytes") $(run_llama "$model" "$bytes")"
        done | python3 -c '
import statistics, sys
rows = [list(map(float, line.split())) for line in sys.stdin]
median = lambda i: statistics.median(row[i] for row in rows)
ratios = [row[0] / row[4] for row in rows if row[4] > 0]
print(f"| {sys.argv[1]} | {sys.argv[2]} % | {median(0):.2f} | {median(4):.2f} "
      f"| {statistics.median(ratios):.2f} |" if ratios else f"| {sys.argv[1]} | {sys.argv[2]} % | {median(0):.2f} | did not run | |",
      f"{median(1):.3f} | {median(2):.2f} | {median(3):.2f} |")' "$(basename "$model" .gguf)" "$fraction"
    done
done
