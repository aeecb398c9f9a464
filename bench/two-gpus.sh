#!/bin/sh
# two-gpus.sh [FOLDER]: compares one GPU with two, on models that fit on one. Prints tab-separated rows with the tokens/s
# of decoding (64 tokens) and of a prompt (2048 tokens). With LLAMA_BENCH=/path/to/llama-bench (its Vulkan back end), adds
# rows for llama.cpp. Then limits each GPU to a third of the mixture. Prints the planner's forecasts, too. FOLDER keeps the
# models (25 GB for the dense one, 20 GB for the mixture).
# HYPURA=program, GPUS=numbers of the GPUs ("0,1"), MODELS="dense mixture", PATIENCE=seconds that a run may take (150).
set -u
folder=${1:-/tmp/two-gpus}
hypura=${HYPURA:-$(dirname "$0")/../build/hypura}
gpus=${GPUS:-0,1}
first=${gpus%%,*}
patience=${PATIENCE:-150}
mkdir -p "$folder"

make_model() {
    path=$folder/$1.gguf
    shift
    [ -f "$path" ] || { "$hypura" synth "$@" --no-check "$path.part" > /dev/null && mv "$path.part" "$path"; }
}

row() { # what, devices, the program's JSON
    python3 - "$1" "$2" "$3" << 'END'
import json, sys
what, devices, text = sys.argv[1:]
try:
    found = json.loads(text)
except ValueError:
    found = {}
def find(value, *names):
    if isinstance(value, dict):
        for name in names:
            if isinstance(value.get(name), (int, float)):
                return value[name]
        for inner in value.values():
            got = find(inner, *names)
            if got is not None:
                return got
    return None
decode, prompt = find(found, "decode_tokens_per_second"), find(found, "prompt_tokens_per_second")
print("\t".join([what, devices] + ["%.1f" % x if x is not None else "failed" for x in (decode, prompt)]), flush=True)
END
}

ours() { # what, devices, model, further options
    what=$1 devices=$2 model=$3
    shift 3
    out=$(timeout "$patience" "$hypura" bench "$model" --gpu "$devices" --prompt-tokens 2048 --gen-tokens 64 --repeat 4 --no-state \
        --json "$@" 2>> "$folder/errors.log")
    row "$what" "$devices" "$out"
}

theirs() { # what, devices, model
    [ -n "${LLAMA_BENCH:-}" ] || return 0
    case $2 in *,*) split=layer ;; *) split=none ;; esac
    out=$(GGML_VK_VISIBLE_DEVICES=$2 timeout "$patience" "$LLAMA_BENCH" -m "$3" -ngl 99 -sm $split -p 2048 -n 64 -r 2 -o json \
        2>> "$folder/errors.log" | python3 -c '
import json, sys
runs = json.load(sys.stdin)
print(json.dumps({("prompt" if r["n_gen"] == 0 else "decode") + "_tokens_per_second": r["avg_ts"] for r in runs}))')
    row "$1 (llama.cpp)" "$2" "$out"
}

expected() { # what, devices, model, further options
    what=$1 devices=$2 model=$3
    shift 3
    "$hypura" inspect "$model" --gpu "$devices" --no-state --json "$@" 2>> "$folder/errors.log" | python3 -c '
import json, sys
plan = json.load(sys.stdin)["plan"]
parts = plan["gpu"]["devices"] if plan["gpu"] else []
print("%s\t%s\texpected %.1f\t%s" % (sys.argv[1], sys.argv[2], plan["decode_tokens_per_second"],
                                     plan["gpu"]["reason"] if plan["gpu"] else "nothing on a GPU"), flush=True)' "$what" "$devices"
}

echo "model	devices	decode	prompt"
"$hypura" profile --gpu "$gpus" "$folder" > "$folder/profile.txt" 2>&1
for kind in ${MODELS:-dense mixture}; do
    case $kind in
    dense) make_model llama-70b-40l-Q4_K --preset llama-70b --layers 40 --type Q4_K ;;
    mixture) make_model mixtral-24l-Q4_K --preset mixtral-8x7b --layers 24 --type Q4_K ;;
    esac || exit 1
    for devices in "$first" "$gpus"; do
        expected $kind "$devices" "$path"
        ours $kind "$devices" "$path"
        theirs $kind "$devices" "$path"
    done
    [ $kind = mixture ] || continue
    third=$(($(wc -c < "$path") / 3 / 1048576))M
    for devices in "$first" "$gpus"; do
        expected "a third on each" "$devices" "$path" --gpu-memory "$third"
        ours "a third on each" "$devices" "$path" --gpu-memory "$third"
    done
done
