"""Validates values against JSON schemas (drafts 7 and 2020-12). It shares no code with the grammar that writes answers."""
import json
import re
from decimal import Decimal
from fractions import Fraction
from urllib.parse import unquote, urldefrag, urljoin


class Unknown(Exception):
    """The schema uses something that this validator does not support."""


def load(text):
    return json.loads(text, parse_float=Decimal)


def kind(value):
    for name, types in (("boolean", bool), ("null", type(None)), ("string", str), ("number", (int, Decimal)),
                        ("array", list), ("object", dict)):
        if isinstance(value, types):
            return name
    raise TypeError(value)


def equal(a, b):
    if kind(a) != kind(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return a == b


def is_type(value, name):
    if name == "integer":
        return kind(value) == "number" and value == int(value)
    return name == "any" or kind(value) == name


SPACES = "\\t\\n\\v\\f\\r \\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000\\ufeff"


def expression(pattern):
    """Translates a pattern of ECMA-262 to Python, where the same letters have other meanings."""
    out, in_class, i = "", False, 0
    while i < len(pattern):
        c = pattern[i]
        if c == "\\" and i + 1 < len(pattern):
            d = pattern[i + 1]
            i += 2
            if d == "d":
                out += "0-9" if in_class else "[0-9]"
            elif d == "w":
                out += "0-9A-Za-z_" if in_class else "[0-9A-Za-z_]"
            elif d == "s":
                out += SPACES if in_class else f"[{SPACES}]"
            elif d in "DWS":
                if in_class:
                    raise Unknown("a negated class within a class")
                out += {"D": "[^0-9]", "W": "[^0-9A-Za-z_]", "S": f"[^{SPACES}]"}[d]
            elif d in "pPcbB0k123456789":
                raise Unknown("\\" + d)
            else:
                out += "\\" + d
            continue
        if c == "[" and not in_class:
            in_class = True
        elif c == "]" and in_class:
            in_class = False
        elif c == "$" and not in_class:
            out += r"\Z"
            i += 1
            continue
        elif c == "." and not in_class:
            out += "[^\\n\\r\\u2028\\u2029]"
            i += 1
            continue
        out += c
        i += 1
    return re.compile(out)


class Schema:
    def __init__(self, root):
        self.root = root
        self.places, self.bases, self.scope = {}, {}, []
        draft = root.get("$schema", "") if isinstance(root, dict) else ""
        self.old = "draft-0" in draft
        self.index(root, "")

    def index(self, node, base):
        if isinstance(node, list):
            for item in node:
                self.index(item, base)
        if not isinstance(node, dict):
            return
        identity = node.get("$id")
        if isinstance(identity, str) and not (self.old and "$ref" in node):
            if identity.startswith("#"):
                self.places[(base, identity[1:])] = node
            else:
                base = urldefrag(urljoin(base, identity))[0]
        if node is self.root or (isinstance(identity, str) and not identity.startswith("#")):
            self.places.setdefault((base, ""), node)
        for key in ("$anchor", "$dynamicAnchor"):
            if isinstance(node.get(key), str):
                self.places[(base, node[key])] = node
        self.bases[id(node)] = base
        for key, value in node.items():
            if key not in ("const", "enum", "default", "examples"):
                self.index(value, base)

    def resolve(self, node, reference):
        base = self.bases.get(id(node), "")
        address, fragment = urldefrag(base + reference if reference.startswith("#") else urljoin(base, reference))
        fragment = unquote(fragment)
        if not fragment.startswith("/"):
            if (address, fragment) not in self.places:
                raise Unknown(reference)
            return self.places[(address, fragment)]
        if (address, "") not in self.places:
            raise Unknown(reference)
        at = self.places[(address, "")]
        for part in fragment[1:].split("/"):
            part = part.replace("~1", "/").replace("~0", "~")
            if part not in at if isinstance(at, dict) else not isinstance(at, list):
                raise Unknown(reference)
            at = at[int(part)] if isinstance(at, list) else at[part]
        return at

    def keeps(self, value):
        return self.check(self.root, value)[0]

    def check(self, schema, value, depth=0):
        """Returns (whether the value is valid, the names of properties and the indices of items that were evaluated)."""
        if depth > 150:
            raise Unknown("an endless reference")
        if isinstance(schema, bool):
            return schema, set()
        self.scope.append(self.bases.get(id(schema), ""))
        try:
            return self.check_keywords(schema, value, depth)
        finally:
            self.scope.pop()

    def check_keywords(self, schema, value, depth):
        seen = set()

        def sub(other, item=value):
            fine, more = self.check(other, item, depth + 1)
            if fine and item is value:
                seen.update(more)
            return fine

        if self.old and "$ref" in schema:
            return sub(self.resolve(schema, schema["$ref"])), seen
        # Unevaluated properties and items are only known after all other keywords.
        order = sorted(schema, key=lambda key: key.startswith("unevaluated"))
        fine = True
        for key in order:
            method = getattr(self, "key_" + key.replace("$", "_"), None)
            if method is None:
                if key == "$recursiveRef":
                    raise Unknown(key)
                continue
            fine &= bool(method(schema, schema[key], value, sub, seen))
        return fine, seen if fine else set()

    def key__ref(self, schema, own, value, sub, seen):
        return sub(self.resolve(schema, own))

    def key__dynamicRef(self, schema, own, value, sub, seen):
        target = self.resolve(schema, own)
        name = urldefrag(own)[1]
        if isinstance(target, dict) and name and target.get("$dynamicAnchor") == name:
            for base in self.scope:
                if self.places.get((base, name), {}).get("$dynamicAnchor") == name:
                    target = self.places[(base, name)]
                    break
        return sub(target)

    def key_type(self, schema, own, value, sub, seen):
        names = own if isinstance(own, list) else [own]
        return any(is_type(value, name) for name in names) or (value is None and schema.get("nullable") is True)

    def key_const(self, schema, own, value, sub, seen):
        return equal(own, value)

    def key_enum(self, schema, own, value, sub, seen):
        return any(equal(item, value) for item in own)

    def key_allOf(self, schema, own, value, sub, seen):
        return all([sub(item) for item in own])

    def key_anyOf(self, schema, own, value, sub, seen):
        return any([sub(item) for item in own])

    def key_oneOf(self, schema, own, value, sub, seen):
        return sum([sub(item) for item in own]) == 1

    def key_not(self, schema, own, value, sub, seen):
        return not self.check(own, value)[0]

    def key_if(self, schema, own, value, sub, seen):
        branch = schema.get("then" if sub(own) else "else")
        return branch is None or sub(branch)

    def number(self, value):
        return kind(value) == "number"

    def key_minimum(self, schema, own, value, sub, seen):
        return not self.number(value) or value >= own

    def key_maximum(self, schema, own, value, sub, seen):
        return not self.number(value) or value <= own

    def key_exclusiveMinimum(self, schema, own, value, sub, seen):
        return not self.number(value) or value > own

    def key_exclusiveMaximum(self, schema, own, value, sub, seen):
        return not self.number(value) or value < own

    def key_multipleOf(self, schema, own, value, sub, seen):
        return not self.number(value) or (Fraction(value) / Fraction(own)).denominator == 1

    def key_minLength(self, schema, own, value, sub, seen):
        return not isinstance(value, str) or len(value) >= own

    def key_maxLength(self, schema, own, value, sub, seen):
        return not isinstance(value, str) or len(value) <= own

    def key_pattern(self, schema, own, value, sub, seen):
        return not isinstance(value, str) or expression(own).search(value)

    def prefix(self, schema):
        items = schema.get("items")
        return items if isinstance(items, list) else schema.get("prefixItems", [])

    def items_from(self, first, own, value, sub, seen):
        if not isinstance(value, list):
            return True
        seen.update(range(first, len(value)))
        return all([sub(own, item) for item in value[first:]])

    def key_prefixItems(self, schema, own, value, sub, seen):
        if not isinstance(value, list):
            return True
        seen.update(range(min(len(own), len(value))))
        return all([sub(other, item) for other, item in zip(own, value)])

    def key_items(self, schema, own, value, sub, seen):
        if isinstance(own, list):
            return self.key_prefixItems(schema, own, value, sub, seen)
        return self.items_from(len(self.prefix(schema)), own, value, sub, seen)

    def key_additionalItems(self, schema, own, value, sub, seen):
        if not isinstance(schema.get("items"), list):
            return True
        return self.items_from(len(schema["items"]), own, value, sub, seen)

    def key_unevaluatedItems(self, schema, own, value, sub, seen):
        if not isinstance(value, list):
            return True
        rest = [i for i in range(len(value)) if i not in seen]
        seen.update(rest)
        return all([sub(own, value[i]) for i in rest])

    def key_minItems(self, schema, own, value, sub, seen):
        return not isinstance(value, list) or len(value) >= own

    def key_maxItems(self, schema, own, value, sub, seen):
        return not isinstance(value, list) or len(value) <= own

    def key_uniqueItems(self, schema, own, value, sub, seen):
        return not own or not isinstance(value, list) or not any(
            equal(value[i], value[k]) for i in range(len(value)) for k in range(i))

    def key_contains(self, schema, own, value, sub, seen):
        if not isinstance(value, list):
            return True
        found = [i for i, item in enumerate(value) if sub(own, item)]
        if self.old:
            return len(found) >= 1
        seen.update(found)
        return schema.get("minContains", 1) <= len(found) <= schema.get("maxContains", len(value))

    def key_required(self, schema, own, value, sub, seen):
        return not isinstance(value, dict) or all(name in value for name in own)

    def key_properties(self, schema, own, value, sub, seen):
        if not isinstance(value, dict):
            return True
        names = [name for name in own if name in value]
        seen.update(names)
        return all([sub(own[name], value[name]) for name in names])

    def key_patternProperties(self, schema, own, value, sub, seen):
        if not isinstance(value, dict):
            return True
        fine = True
        for pattern, other in own.items():
            for name in value:
                if expression(pattern).search(name):
                    seen.add(name)
                    fine &= sub(other, value[name])
        return fine

    def key_additionalProperties(self, schema, own, value, sub, seen):
        if not isinstance(value, dict):
            return True
        rest = [name for name in value if name not in schema.get("properties", {}) and
                not any(expression(pattern).search(name) for pattern in schema.get("patternProperties", {}))]
        seen.update(rest)
        return all([sub(own, value[name]) for name in rest])

    def key_unevaluatedProperties(self, schema, own, value, sub, seen):
        if not isinstance(value, dict):
            return True
        rest = [name for name in value if name not in seen]
        seen.update(rest)
        return all([sub(own, value[name]) for name in rest])

    def key_propertyNames(self, schema, own, value, sub, seen):
        return not isinstance(value, dict) or all([sub(own, name) for name in value])

    def key_minProperties(self, schema, own, value, sub, seen):
        return not isinstance(value, dict) or len(value) >= own

    def key_maxProperties(self, schema, own, value, sub, seen):
        return not isinstance(value, dict) or len(value) <= own

    def depends(self, own, value, sub):
        if not isinstance(value, dict):
            return True
        return all([all(name in value for name in needed) if isinstance(needed, list) else sub(needed)
                    for name, needed in own.items() if name in value])

    def key_dependentRequired(self, schema, own, value, sub, seen):
        return self.depends(own, value, sub)

    key_dependentSchemas = key_dependencies = key_dependentRequired
