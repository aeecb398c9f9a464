#!/usr/bin/env python3
"""Writes inputs for the fuzz targets to begin from, made of the tests' data: a folder of them for each target.

    seeds.py SOURCE_FOLDER OUT_FOLDER
"""
import glob
import json
import os
import sys

SOURCE, OUT = sys.argv[1:3]
DATA = os.path.join(SOURCE, "tests", "data")
sys.path.append(os.path.join(SOURCE, "tests", "server"))
import gguf_file

OUTPUTS = ["<think>why</think>\nText<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
           "{\"name\": \"f\", \"parameters\": {\"b\": \"x\"}}", "<function=f>{\"a\": 2}</function> tail"]
GRAMMARS = ['root ::= "a" [b-z]{1,3} ( x | "\\u00e9" )*\nx ::= [^0-9\\n]+ "." # end\n', '{"type": "object", "properties": {"a": {"type": '
            '"integer", "minimum": -3, "maximum": 12}, "b": {"enum": ["x", 1, null]}}, "required": ["a"], "additionalProperties": false}',
            '{"$defs": {"n": {"anyOf": [{"type": "string", "pattern": "^(a|b)+[^c]{2,}$"}, {"type": "array", "items": {"$ref": '
            '"#/$defs/n"}, "maxItems": 2}]}}, "$ref": "#/$defs/n"}', '{"type": ["number", "string"], "format": "date-time"}']


def write(target, number, data):
    folder = os.path.join(OUT, target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, str(number)), "wb") as file:
        file.write(data)


def main():
    for number, path in enumerate(sorted(glob.glob(DATA + "/oracle/models/*.gguf") + glob.glob(DATA + "/embed/*.gguf"))):
        _, tensors = gguf_file.read(path)
        with open(path, "rb") as file:
            head = file.read(os.path.getsize(path) - sum((len(data) + 31) // 32 * 32 for *_, data in tensors))
        write("fuzz_model", number, head)
        write("fuzz_gguf", number, head + bytes(64))
    for number, path in enumerate(sorted(glob.glob(DATA + "/oracle/tokenizer/models/*.gguf") + glob.glob(DATA + "/tokenizer/*.gguf"))):
        with open(path, "rb") as file:
            write("fuzz_vocabulary", number, file.read())
    templates = []
    for path in sorted(glob.glob(DATA + "/oracle/templates/*.jinja")):
        with open(path, "rb") as file:
            templates.append(file.read())
    with open(DATA + "/jinja.jsonl") as lines:
        small = [json.loads(line).get("source", "") for line in lines]
    for number, text in enumerate(templates + [text.encode() for text in small if text]):
        write("fuzz_template", number, text)
    for number, (text, output) in enumerate((text, output) for text in templates for output in OUTPUTS):
        write("fuzz_chat_output", number, text + b"\0" + output.encode())
    for number, text in enumerate(GRAMMARS):
        write("fuzz_grammar", number, text.encode() + b"\0" + b'{"a": 3, "b": "x"}')


main()
