#!/usr/bin/env bash
# hypura beside llama.cpp on the same files: interleaved rounds, medians, ratios.
#
#   bench/vs-llama.sh [-t THREADS] [-r ROUNDS] [-p PROMPT_TOKENS] [-n GENERATED_TOKENS] MODEL.gguf...
#
# LLAMA_BENCH names the command (default: llama-bench on the PATH; may hold several words), HYPURA the program
# (default: build/hypura). Prints a Markdown table.
set -euo pipefail
threads=2 rounds=3 prompt=512 generate=64
while getopts t:r:p:n: option; do
    case $option in
    t) threads=$OPTARG ;;
    r) rounds=$OPTARG ;;
    p) prompt=$OPTARG ;;
    n) generate=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { sed -n '2,7p' "$0"; exit 2; }
read -r -a llama <<<"${LLAMA_BENCH:-llama-bench}"
hypura=${HYPURA:-$(dirname "$0")/../build/hypura}

measure() { # model: one line "decode_hypura decode_llama prompt_hypura prompt_llama" a round
    "$hypura" bench "$1" --threads "$threads" --prompt-tokens "$prompt" --gen-tokens "$generate" --repeat 1 --json |
        python3 -c 'import json,sys; d=json.load(sys.stdin); print(d["decode_tokens_per_second"], d["prompt_tokens_per_second"], end=" ")'
    "${llama[@]}" -m "$1" -t "$threads" -p "$prompt" -n "$generate" -r 1 -o json 2>/dev/null |
        python3 -c 'import json,sys
rows = json.load(sys.stdin)
speed = {("decode" if r["n_gen"] else "prompt"): r["avg_ts"] for r in rows}
print(speed["decode"], speed["prompt"])'
}

echo "| model | decode, tokens/s | llama.cpp | ratio | prompt of $prompt, tokens/s | llama.cpp | ratio |"
echo "|---|---|---|---|---|---|---|"
for model in "$@"; do
    for ((round = 0; round < rounds; round++)); do measure "$model"; done |
        python3 -c '
import statistics, sys
rows = [list(map(float, line.split())) for line in sys.stdin]
median = lambda i: statistics.median(row[i] for row in rows)
ratio = lambda a, b: statistics.median(row[a] / row[b] for row in rows)
print(f"| {sys.argv[1]} | {median(0):.2f} | {median(2):.2f} | {ratio(0, 2):.2f} "
      f"| {median(1):.1f} | {median(3):.1f} | {ratio(1, 3):.2f} |")' "$(basename "$model" .gguf)"
done
