#!/usr/bin/env bash
# Seconds from the program's start to its end after one token, for hypura and llama.cpp, with the file in the page cache
# and without. Rounds are interleaved. Prints a Markdown table of medians, with the time of reading the file alone.
#
#   bench/first-token.sh [-t THREADS] [-r ROUNDS] MODEL.gguf...
#
# LLAMA_COMPLETION names llama.cpp's command (default: llama-completion on the PATH; it may be several words), HYPURA the
# program (default: build/hypura). Needs root, to drop the page cache.
set -euo pipefail
threads=2 rounds=3
while getopts t:r: option; do
    case $option in
    t) threads=$OPTARG ;;
    r) rounds=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { sed -n '2,8p' "$0"; exit 2; }
read -r -a llama <<<"${LLAMA_COMPLETION:-llama-completion}"
hypura=${HYPURA:-$(dirname "$0")/../build/hypura}

seconds() { # command...
    local start end
    start=$(date +%s.%N)
    "$@" >/dev/null 2>&1 </dev/null
    end=$(date +%s.%N)
    echo "$end - $start" | bc
}

run_hypura() { seconds "$hypura" run "$1" --threads "$threads" --raw --prompt "The sea" --context 512 --max-tokens 1 --ignore-eos --no-state; }
run_llama() { seconds "${llama[@]}" -m "$1" -t "$threads" -c 512 -n 1 --ignore-eos -no-cnv -p "The sea"; }
read_quarters() { # four readers, to keep the drive busy
    local blocks=$((($(stat -L -c %s "$1") / 4 + (4 << 20) - 1) / (4 << 20)))
    for quarter in 0 1 2 3; do
        dd if="$1" of=/dev/null bs=4M count=$blocks skip=$((quarter * blocks)) iflag=direct &
    done
    wait
}
run_disk() { seconds read_quarters "$1"; }
cold() { sync; echo 3 >/proc/sys/vm/drop_caches; }
warm() { cat "$1" >/dev/null; }

echo "| model | cached: hypura, s | llama.cpp | ratio | not cached: hypura | llama.cpp | ratio | disk alone | share of the disk |"
echo "|---|---|---|---|---|---|---|---|---|"
for model in "$@"; do
    for ((round = 0; round < rounds; round++)); do
        warm "$model"
        hypura_warm=$(run_hypura "$model")
        warm "$model"
        llama_warm=$(run_llama "$model")
        cold
        hypura_cold=$(run_hypura "$model")
        cold
        llama_cold=$(run_llama "$model")
        cold
        echo "$hypura_warm $llama_warm $hypura_cold $llama_cold $(run_disk "$model")"
    done | python3 -c '
import statistics, sys
rows = [list(map(float, line.split())) for line in sys.stdin]
median = lambda i: statistics.median(row[i] for row in rows)
ratio = lambda a, b: statistics.median(row[a] / row[b] for row in rows)
print(f"| {sys.argv[1]} | {median(0):.2f} | {median(1):.2f} | {ratio(1, 0):.2f} | {median(2):.2f} | {median(3):.2f} "
      f"| {ratio(3, 2):.2f} | {median(4):.2f} | {ratio(4, 2):.2f} |")' "$(basename "$model" .gguf)"
done
