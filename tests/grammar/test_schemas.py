#!/usr/bin/env python3
"""Answers under JSON schemas are valid. A random sampler writes answers for the schemas of the official suite (see
tests/data/json-schemas.md), and json_schema.py validates them, after the suite has validated json_schema.py. Prints TAP.

test_schemas.py PROGRAM TESTS [long]: "long" writes more answers and also validates them with ajv, if npm is installed."""
import collections
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from decimal import Decimal

PROGRAM, TESTS = sys.argv[1:3]
LONG = "long" in sys.argv[3:]
sys.path.insert(0, TESTS)
sys.path.insert(0, os.path.join(TESTS, "grammar"))
import json_schema  # noqa: E402
from tap import run_tests  # noqa: E402

DRAFT_7 = "http://json-schema.org/draft-07/schema#"


def suite():
    """Yields (file, description, schema, [(value, whether it is valid)])."""
    with open(os.path.join(TESTS, "data", "json-schemas.json"), encoding="utf-8") as file:
        for draft, name, about, schema, values in json_schema.load(file.read()):
            if draft == "draft7" and isinstance(schema, dict):
                schema.setdefault("$schema", DRAFT_7)
            yield name, f"{draft} {name}: {about}", schema, values


def dump(value):
    return json.dumps(value, default=lambda number: float(number))


def write_answers(schemas, count, seed):
    text = "".join(dump(schema) + "\n" for schema in schemas)
    done = subprocess.run([PROGRAM, str(count), str(seed)], input=text, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def wrong_answers(schemas, results):
    """Returns (number of answers validated, invalid answers)."""
    judged, wrong = 0, []
    for (about, schema), result in zip(schemas, results):
        if result.get("problem"):
            wrong.append((about, dump(schema), result["problem"], result["answers"][-1:]))
        for answer in result.get("answers", []) if not result.get("problem") else []:
            if answer is None:
                continue
            try:
                judged += 1
                if not json_schema.Schema(schema).keeps(json_schema.load(answer)):
                    wrong.append((about, dump(schema), answer))
            except (json_schema.Unknown, ValueError) as problem:
                wrong.append((about, dump(schema), answer, repr(problem)))
    return judged, wrong


def the_validator_agrees_with_the_suite():
    checked = 0
    for name, about, schema, values in suite():
        if name == "vocabulary":  # needs another schema
            continue
        for value, keeps in values:
            try:
                checked += 1
                assert json_schema.Schema(schema).keeps(value) == keeps, (about, value)
            except json_schema.Unknown:
                checked -= 1
    assert checked > 2000, checked


def every_answer_keeps_its_schema():
    schemas = [(about, schema) for _, about, schema, _ in suite()]
    results = write_answers([schema for _, schema in schemas], 30 if LONG else 3, 7)
    judged, wrong = wrong_answers(schemas, results)
    refused = collections.Counter(result["refused"] for result in results if "refused" in result)
    ended = sum(1 for result in results if any(result.get("answers", [])))
    print(f"# {len(schemas)} schemas: {len(results) - sum(refused.values())} enforced, {judged} answers validated")
    for reason, times in refused.most_common():
        print(f"# refused, {times}: {reason}")
    assert not wrong, (len(wrong), wrong[:5])
    assert len(results) == len(schemas) and ended > 500, ended


NAMES = ("a", "b", "ab", "x1", "")
PATTERNS = ("^a", "b$", "^[ab]+$", "x", "^(a|x1)$", "^$", "[^a]", "^.{0,2}$", "1")
VALUES = (None, True, False, 0, 1, 2, -3, Decimal("1.5"), Decimal("0.25"), "", "a", "ab", "b", [], [1], ["a", 1], {}, {"a": 1},
          {"a": "a", "b": 2})


class RandomSchemas:
    """Random combinations of all keywords."""
    def __init__(self, seed):
        self.random = random.Random(seed)

    def some(self, values, least=1, most=3):
        return self.random.sample(values, min(len(values), self.random.randint(least, most)))

    def schema(self, depth):
        r = self.random
        if r.random() < 0.08:
            return r.random() < 0.8
        if depth == 0 and r.random() < 0.5:
            return {"type": r.choice(("string", "integer", "number", "boolean", "null", "array", "object"))}
        out = {}
        for _ in range(r.choice((1, 1, 2, 2, 3, 4))):
            self.add_keyword(out, depth)
        return out

    def add_keyword(self, out, depth):
        r, sub = self.random, lambda: self.schema(max(depth - 1, 0))
        groups = {
            "any": {"type": lambda: self.some(("string", "integer", "number", "boolean", "null", "array", "object"), 1, 4),
                    "const": lambda: r.choice(VALUES), "enum": lambda: self.some(VALUES, 2, 6)},
            "number": {"minimum": lambda: r.choice((-5, 0, 1, Decimal("0.5"), 3)), "maximum": lambda: r.choice((1, 4, Decimal("9.75"), 20)),
                       "exclusiveMinimum": lambda: r.choice((-2, 0, Decimal("0.25"))),
                       "exclusiveMaximum": lambda: r.choice((3, 10, Decimal("4.5"))),
                       "multipleOf": lambda: r.choice((1, 2, 3, 7, 10, Decimal("0.5"), Decimal("0.01"), Decimal("2.5")))},
            "string": {"minLength": lambda: r.randint(0, 3), "maxLength": lambda: r.randint(1, 6),
                       "pattern": lambda: r.choice(PATTERNS)},
            "array": {"items": sub, "prefixItems": lambda: [sub() for _ in range(r.randint(1, 3))], "contains": sub,
                      "minItems": lambda: r.randint(0, 3), "maxItems": lambda: r.randint(1, 5), "uniqueItems": lambda: True,
                      "minContains": lambda: r.randint(0, 2), "maxContains": lambda: r.randint(1, 3),
                      "unevaluatedItems": sub},
            "object": {"properties": lambda: {name: sub() for name in self.some(NAMES)}, "required": lambda: self.some(NAMES),
                       "patternProperties": lambda: {pattern: sub() for pattern in self.some(PATTERNS, 1, 2)},
                       "additionalProperties": sub, "minProperties": lambda: r.randint(0, 3),
                       "maxProperties": lambda: r.randint(1, 4), "propertyNames": sub,
                       "dependentRequired": lambda: {name: self.some(NAMES) for name in self.some(NAMES)},
                       "dependentSchemas": lambda: {name: sub() for name in self.some(NAMES, 1, 2)},
                       "unevaluatedProperties": sub},
            "all": {"allOf": lambda: [sub() for _ in range(r.randint(1, 3))], "anyOf": lambda: [sub() for _ in range(r.randint(1, 3))],
                    "oneOf": lambda: [sub() for _ in range(r.randint(1, 3))], "not": sub, "if": sub, "then": sub, "else": sub,
                    "$ref": lambda: "#/$defs/d"}}
        group = r.choice([name for name in groups if name != "all" or depth])
        for key in self.some(list(groups[group]), 1, 3):
            out[key] = groups[group][key]()

    def whole(self):
        schema = self.schema(2)
        if isinstance(schema, dict):
            schema["$defs"] = {"d": self.schema(0)}  # depth 0: without "$ref"
        return schema


def answers_keep_random_schemas():
    maker = RandomSchemas(11)
    schemas = [(f"random {i}", maker.whole()) for i in range(4000 if LONG else 400)]
    results = write_answers([schema for _, schema in schemas], 3, 11)
    judged, wrong = wrong_answers(schemas, results)
    refused = collections.Counter(re.sub("[0-9]+", "N", result["refused"]) for result in results if "refused" in result)
    print(f"# {len(schemas) - sum(refused.values())} of {len(schemas)} schemas enforced, {judged} answers validated")
    for reason, times in refused.most_common(8):
        print(f"# refused, {times}: {reason}")
    assert not wrong, (len(wrong), wrong[:5])
    assert judged > len(schemas), judged


AJV = "8.20.0"
JUDGE = """
const lines = require("fs").readFileSync(0, "utf8").split("\\n").filter(line => line);
for (const line of lines) {
  const {schema, answers, known} = JSON.parse(line);
  const old = typeof schema === "object" && /draft-0/.test(schema.$schema || "");
  const Ajv = require(old ? "ajv" : "ajv/dist/2020").default;
  let keeps;
  try {
    // Our numbers are decimal. With doubles and without a precision, 0.07 is not a multiple of 0.01.
    keeps = new Ajv({strict: false, validateFormats: false, multipleOfPrecision: 4, logger: false}).compile(schema);
  } catch (problem) {
    console.log("null");
    continue;
  }
  const values = answers.map(answer => JSON.parse(answer));
  try {
    // Skip schemas for which ajv itself fails the suite, such as those with dynamic references.
    const wrong = known.some(([value, fine]) => keeps(value) !== fine);
    console.log(wrong ? "null" : JSON.stringify(answers.filter((_, i) => !keeps(values[i]))));
  } catch (problem) { // a schema that refers to itself endlessly
    console.log("null");
  }
}
"""


def ajv_finds_no_wrong_answer_either():
    if not shutil.which("npm"):
        return "npm is not installed"
    known = {about: values for _, about, _, values in suite()}
    schemas = [(about, schema) for _, about, schema, _ in suite()]
    maker = RandomSchemas(13)
    schemas += [(f"random {i}", maker.whole()) for i in range(300)]
    results = write_answers([schema for _, schema in schemas], 5, 13)
    lines = ""
    for (about, schema), result in zip(schemas, results):
        answers = [answer for answer in result.get("answers", []) if answer is not None]
        lines += dump({"schema": schema, "answers": answers, "known": known.get(about, [])}) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["npm", "install", "--silent", "--prefix", folder, "ajv@" + AJV], capture_output=True).returncode:
            return "npm cannot install ajv"
        with open(os.path.join(folder, "judge.js"), "w") as file:
            file.write(JUDGE)
        done = subprocess.run(["node", "judge.js"], cwd=folder, input=lines, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(verdicts) == len(schemas), len(verdicts)
    wrong = [(about, dump(schema), bad[0]) for (about, schema), bad in zip(schemas, verdicts) if bad]
    judged = sum(len(result.get("answers", [])) for result, bad in zip(results, verdicts) if bad is not None)
    print(f"# {judged} answers validated by ajv; it cannot handle {verdicts.count(None)} schemas")
    assert not wrong, (len(wrong), wrong[:5])
    assert judged > 2000, judged


if __name__ == "__main__":
    TESTS_TO_RUN = [the_validator_agrees_with_the_suite, every_answer_keeps_its_schema,
                    answers_keep_random_schemas]
    sys.exit(1 if run_tests(TESTS_TO_RUN + ([ajv_finds_no_wrong_answer_either] if LONG else [])) else 0)
