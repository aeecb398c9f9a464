#!/usr/bin/env bash
# hypura and llama.cpp on the same files: interleaved rounds, medians, ratios.
#
#   bench/vs-llama.sh [-t THREADS] [-r ROUNDS] [-p PROMPT_TOKENS] [-n GENERATED_TOKENS] [-d CONTEXT_FILL] MODEL.gguf...
#
# LLAMA_BENCH names llama.cpp's command (default: llama-bench on the PATH; it may be several words), HYPURA the program
# (default: build/hypura). Prints a Markdown table; with -p 0, of decoding only. "of memory" is the rate at which decoding
# reads weights, relative to plain reading of memory between the tokens of the same round.
set -euo pipefail
threads=2 rounds=3 prompt=512 generate=64 depth=0
while getopts t:r:p:n:d: option; do
    case $option in
    t) threads=$OPTARG ;;
    r) rounds=$OPTARG ;;
    p) prompt=$OPTARG ;;
    n) generate=$OPTARG ;;
    d) depth=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { sed -n '2,8p' "$0"; exit 2; }
read -r -a llama <<<"${LLAMA_BENCH:-llama-bench}"
hypura=${HYPURA:-$(dirname "$0")/../build/hypura}

measure() { # model: one line "decode_hypura prompt_hypura share decode_llama prompt_llama" per round
    "$hypura" bench "$1" --threads "$threads" --prompt-tokens "$prompt" --gen-tokens "$generate" \
        --context-fill "$depth" --repeat 1 --json |
        python3 -c 'import json,sys; d=json.load(sys.stdin)
print(d["decode_tokens_per_second"], d["prompt_tokens_per_second"], d["share_of_memory_bandwidth"] or 0, end=" ")'
    "${llama[@]}" -m "$1" -t "$threads" -p "$prompt" -n "$generate" -d "$depth" -r 1 -o json 2>/dev/null |
        python3 -c 'import json,sys
rows = json.load(sys.stdin)
speed = {("decode" if r["n_gen"] else "prompt"): r["avg_ts"] for r in rows}
print(speed["decode"], speed.get("prompt", 1))'
}

at=$([ "$depth" = 0 ] || echo " at $depth")
header="| model | decode$at, tokens/s | of memory | llama.cpp | ratio |" line="|---|---|---|---|---|"
[ "$prompt" = 0 ] || header+=" prompt of $prompt$at, tokens/s | llama.cpp | ratio |" line+="---|---|---|"
printf '%s\n' "$header" "$line"
for model in "$@"; do
    for ((round = 0; round < rounds; round++)); do measure "$model"; done |
        python3 -c '
import statistics, sys
rows = [list(map(float, line.split())) for line in sys.stdin]
median = lambda i: statistics.median(row[i] for row in rows)
ratio = lambda a, b: statistics.median(row[a] / row[b] for row in rows)
prompt = f" {median(1):.1f} | {median(4):.1f} | {ratio(1, 4):.2f} |" if sys.argv[2] != "0" else ""
print(f"| {sys.argv[1]} | {median(0):.2f} | {100 * median(2):.0f} % | {median(3):.2f} | {ratio(0, 3):.2f} |" + prompt)
' "$(basename "$model" .gguf)" "$prompt"
done
