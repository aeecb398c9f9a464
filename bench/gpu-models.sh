#!/usr/bin/env bash
# Models on a GPU: hypura and llama.cpp's Vulkan back end on the same files.
#
#   bench/gpu-models.sh [-d FOLDER] [-r ROUNDS] [-p PROMPT_TOKENS] [-n GENERATED_TOKENS] [-g GPU] dense|mixture...
#
# dense: the geometry of Llama 3 8B in F16, Q8_0 and Q4_K, all on the GPU. mixture: 8 layers of Mixtral in Q4_K, in these
# placements: all on the GPU; the experts in memory; and a third on the GPU, a third in memory and the rest on the drive.
# The last is compared with the same run without a GPU and with the planner's forecast. Makes the files in FOLDER
# (default: /tmp) if they are missing. HYPURA names the program, LLAMA_BENCH llama.cpp's command (it may be several words;
# empty leaves llama.cpp out). Runs "hypura profile" first; shares of bandwidth refer to its figure.
set -euo pipefail
folder=/tmp rounds=3 prompt=2048 generate=128 gpu=auto
while getopts d:r:p:n:g: option; do
    case $option in
    d) folder=$OPTARG ;;
    r) rounds=$OPTARG ;;
    p) prompt=$OPTARG ;;
    n) generate=$OPTARG ;;
    g) gpu=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { sed -n '2,10p' "$0"; exit 2; }
hypura=${HYPURA:-$(dirname "$0")/../build/hypura}
read -r -a llama <<<"${LLAMA_BENCH-llama-bench}"

make_model() { # name options...
    local path=$folder/$1.gguf
    shift
    [ -f "$path" ] || { "$hypura" synth "$@" --no-check "$path.part" >/dev/null && mv "$path.part" "$path"; }
}

run_hypura() { # model options...: "decode prompt"
    local model=$1
    shift
    "$hypura" bench "$model" --prompt-tokens "$prompt" --gen-tokens "$generate" --repeat 1 --context $((prompt + generate + 64)) \
        --no-state --json "$@" |
        python3 -c 'import json,sys; d=json.load(sys.stdin); print(d["decode_tokens_per_second"], d["prompt_tokens_per_second"])'
}

run_llama() { # model options...
    local model=$1
    shift
    [ ${#llama[@]} -gt 0 ] && [ "${1-}" != none ] || { echo 0 0; return; }
    "${llama[@]}" -m "$model" -ngl 99 -p "$prompt" -n "$generate" -r 1 -o json "$@" 2>/dev/null |
        python3 -c 'import json,sys
speed = {("decode" if r["n_gen"] else "prompt"): r["avg_ts"] for r in json.load(sys.stdin)}
print(speed["decode"], speed["prompt"])' || echo 0 0
}

expected() { # model options...: tokens/s
    local model=$1
    shift
    "$hypura" inspect "$model" --context $((prompt + generate + 64)) --json "$@" |
        python3 -c 'import json,sys; d=json.load(sys.stdin)["plan"]; print(d["decode_tokens_per_second"], d["bound"])'
}


"$hypura" profile --gpu "$gpu" "$folder" --json >"$folder/profile.json"
python3 - "$folder/profile.json" <<'P'
import json, sys
h = json.load(open(sys.argv[1]))
for g in h["gpus"]:
    print(f'{g["name"]}: memory {g["memory_bytes_per_second"] / 1e9:.0f} GB/s, uploads {g["upload_bytes_per_second"] / 1e9:.1f} GB/s, '
          f'a batch there and back {g["turn_seconds"] * 1e6:.0f} us')
    for name, speed in g["kernels"].items():
        print(f'  {name}: {speed / 1e9:.0f} GB/s, {100 * speed / g["memory_bytes_per_second"]:.0f} % of it')
print(f'CPU: {h["cores"]} cores, memory {h["memory_bytes_per_second"] / 1e9:.0f} GB/s, drive {h["storage"]["bytes_per_second"] / 1e9:.2f} GB/s')
P
bandwidth=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["gpus"][0]["memory_bytes_per_second"])' "$folder/profile.json")

row() { # title model hypura-options -- llama-options
    local title=$1 model=$2 lines="" ours=()
    shift 2
    while [ "$1" != -- ]; do
        ours+=("$1")
        shift
    done
    shift
    for ((round = 0; round < rounds; round++)); do
        lines+="$(run_hypura "$model" "${ours[@]}") $(run_llama "$model" "$@")"$'\n'
    done
    python3 - "$title" "$(stat -L -c %s "$model")" "$bandwidth" "$(expected "$model" "${ours[@]}")" "$lines" <<'P'
import statistics, sys
title, size, bandwidth, expected, lines = sys.argv[1:]
rows = [list(map(float, line.split())) for line in lines.splitlines() if line.strip()]
m = [statistics.median(row[i] for row in rows) for i in range(4)]
ratio = lambda a, b: f"{statistics.median(r[a] / r[b] for r in rows):.2f}" if all(r[b] for r in rows) else "-"
print(f"| {title} | {m[0]:.1f} | {m[2]:.1f} | {ratio(0, 2)} | {m[1]:.0f} | {m[3]:.0f} | {ratio(1, 3)} | {expected} "
      f"| {m[0] * float(size) / float(bandwidth) * 100:.0f} % |", flush=True)
P
}

echo
echo "| model | decode, tokens/s | llama.cpp | ratio | prompt of $prompt, tokens/s | llama.cpp | ratio | planner's decode, bound | file's bytes a token, of the GPU's memory |"
echo "|---|---|---|---|---|---|---|---|---|"
for what in "$@"; do
    case $what in
    dense)
        for type in F16 Q8_0 Q4_K; do
            make_model "llama-8b-$type" --preset llama-8b --type $type
            row "Llama 8B, $type" "$folder/llama-8b-$type.gguf" --gpu "$gpu" --
        done
        ;;
    mixture)
        make_model mixtral-8l-Q4_K --preset mixtral-8x7b --layers 8 --type Q4_K
        model=$folder/mixtral-8l-Q4_K.gguf
        third=$(($(stat -L -c %s "$model") / 3))
        # All that every token uses, with its caches, but no expert.
        dense=$("$hypura" inspect "$model" --json --gpu "$gpu" --context $((prompt + generate + 64)) | python3 -c 'import json,sys
g = json.load(sys.stdin)["plan"]["gpu"]
print(g["resident_bytes"] + g["kv_bytes"] + g["scratch_bytes"] + (8 << 20))')
        row "Mixtral, 8 layers, all on the GPU" "$model" --gpu "$gpu" --
        row "experts in memory" "$model" --gpu "$gpu" --gpu-memory "$dense" -- --n-cpu-moe 99
        row "a third on the GPU, all else in memory" "$model" --gpu "$gpu" --gpu-memory $third -- --n-cpu-moe 5
        row "a third on the GPU, a third in memory" "$model" --gpu "$gpu" --gpu-memory $third --memory $third -- none
        row "no GPU, all in memory" "$model" --gpu none -- -ngl 0 -nkvo 1
        row "no GPU, two thirds in memory" "$model" --gpu none --memory $((2 * third)) -- none
        row "no GPU, a third in memory" "$model" --gpu none --memory $third -- none
        ;;
    *) exit 2 ;;
    esac
done
