#!/usr/bin/env python3
"""function-lengths.py [--max 70] [FILE...]: no Rust function over 70 lines without a reason beside it.

A function's length is the number of lines from the one with `fn` to the one with its closing brace, comments and blank
lines included; doc comments and attributes above it are not counted. The reason is a comment

    // long: one arm for each request, and each is one line

among the comments and attributes right above the function, or as the first line of its body. A reason beside a function
that is not long is reported too, so that none outlives its cause. Without FILE all tracked files are checked.
`--self-test` checks this program on snippets that are easy to misread.

There is no parser here: the text is cut into tokens, which is enough to know a brace of code from one in a string, a
comment or a character.
"""
import argparse
import bisect
import os
import re
import subprocess
import sys

LINES_MAX = 70
REASON = re.compile(r"//\s*long:\s*(\S.*)?$")

# One alternative for each thing in which a brace or `fn` means nothing, then the tokens that matter. A lifetime is a
# quote and a name without a closing quote; every other quote begins a character.
TOKEN = re.compile(
    r"""
      (?P<line_comment>//[^\n]*)
    | (?P<block_comment>/\*)
    | (?P<raw_string>\b(?:r|br|cr)(?P<hashes>\#*)")
    | (?P<string>\b[bc]?"(?:[^"\\]|\\.)*"|"(?:[^"\\]|\\.)*")
    | (?P<character>b?'(?:[^'\\\n]|\\(?:u\{[0-9a-fA-F_]+\}|x[0-9a-fA-F]{2}|.))')
    | (?P<lifetime>'[^\W\d]\w*)
    | (?P<word>(?:r\#)?[^\W\d]\w*)
    | (?P<mark>->|=>|[{}()\[\];<>])
    """,
    re.VERBOSE | re.DOTALL,
)
BLOCK_EDGE = re.compile(r"/\*|\*/")


def tokens(text):
    """(text, offset) of every word, lifetime and mark that is code."""
    at = 0
    while found := TOKEN.search(text, at):
        at = found.end()
        kind = found.lastgroup if found.lastgroup != "hashes" else "raw_string"
        if kind == "raw_string":
            end = text.find('"' + found["hashes"], at)
            at = len(text) if end < 0 else end + 1 + len(found["hashes"])
        elif kind == "block_comment":
            at = after_block_comment(text, at)
        elif kind in ("word", "lifetime", "mark"):
            yield found.group(), found.start()


def after_block_comment(text, at):
    """Block comments nest."""
    depth = 1
    while depth and (edge := BLOCK_EDGE.search(text, at)):
        depth += 1 if edge.group() == "/*" else -1
        at = edge.end()
    return len(text) if depth else at


def functions(text):
    """(name, first line, line of the opening brace, last line) of every function with a body, lines from 1."""
    line_starts = [0] + [newline.end() for newline in re.finditer("\n", text)]

    def line_of(offset):
        return bisect.bisect_right(line_starts, offset)

    stream = list(tokens(text))
    for index, (word, offset) in enumerate(stream):
        # `fn` without a name is a type, `fn $name` a template.
        if word != "fn" or index + 1 == len(stream) or not is_name(text, offset, stream[index + 1]):
            continue
        opening = body(stream, index + 2)
        if opening is None:
            continue
        closing = matching(stream, opening)
        yield stream[index + 1][0], line_of(offset), line_of(stream[opening][1]), line_of(stream[closing][1])


def is_name(text, offset, following):
    name, at = following
    return re.match(r"(r#)?[^\W\d]", name) and text[offset + 2:at].strip() == ""


def body(stream, index):
    """The token that opens the body; None when a semicolon ends the declaration."""
    depth = 0
    previous = ""
    while index < len(stream):
        mark = stream[index][0]
        if mark in "([":
            depth += 1
        elif mark in ")]":
            depth -= 1
            if depth < 0:
                return None
        elif mark == "{" and previous == "<":
            # A constant expression as a generic argument.
            index = matching(stream, index)
        elif depth == 0 and mark == "{":
            return index
        elif depth == 0 and mark in (";", "}"):
            return None
        previous = mark
        index += 1
    return None


def matching(stream, opening):
    """The token that closes the brace; the last one when nothing does."""
    depth = 0
    for index in range(opening, len(stream)):
        if stream[index][0] == "{":
            depth += 1
        elif stream[index][0] == "}":
            depth -= 1
            if depth == 0:
                return index
    return len(stream) - 1


def reason_line(lines, first, opening):
    """The line, from 1, of the comment with the reason; None without one."""
    above = first - 1
    while above >= 1 and lines[above - 1].strip().startswith(("//", "#[")):
        if REASON.match(lines[above - 1].strip()):
            return above
        above -= 1
    if opening < len(lines) and REASON.match(lines[opening].strip()):
        return opening + 1
    return None


def problems(text, lines_max=LINES_MAX):
    """(line, what is wrong) for a file's text."""
    lines = text.split("\n")
    found, used = [], set()
    for name, first, opening, last in functions(text):
        length = last - first + 1
        reason = reason_line(lines, first, opening)
        if length <= lines_max:
            continue
        if reason is None:
            found.append((first, f"fn {name} has {length} lines"))
            continue
        used.add(reason)
        if not REASON.match(lines[reason - 1].strip()).group(1):
            found.append((reason, f"fn {name} has {length} lines and its `long:` gives no reason"))
    for number, line in enumerate(lines, 1):
        if REASON.match(line.strip()) and number not in used:
            found.append((number, "`long:` is beside no long function; remove it"))
    return sorted(found)


def tracked():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    listed = subprocess.run(["git", "-C", root, "ls-files", "-z", "*.rs"], check=True, capture_output=True, text=True)
    return [os.path.relpath(os.path.join(root, name)) for name in listed.stdout.split("\0") if name]


def main():
    parser = argparse.ArgumentParser(description="No Rust function over 70 lines without a reason beside it.")
    parser.add_argument("--max", type=int, default=LINES_MAX, help="lines that are allowed (70)")
    parser.add_argument("--self-test", action="store_true", help="check this program")
    parser.add_argument("files", nargs="*", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    failed = 0
    files = arguments.files or tracked()
    for path in files:
        with open(path, encoding="utf-8") as file:
            for line, what in problems(file.read(), arguments.max):
                print(f"{path}:{line}: {what}")
                failed += 1
    if failed:
        print("split what is too long by what its parts decide, or say why not: `// long: reason` right above `fn`")
        return 1
    print(f"function lengths: ok ({len(files)} files)")
    return 0


# What functions() finds in a snippet: names with first and last line.
SNIPPETS = [
    ("plain", "fn a() {\n}\n", [("a", 1, 2)]),
    ("one line", "fn a() {} fn b() {}", [("a", 1, 1), ("b", 1, 1)]),
    ("declaration only", "trait T {\n fn a(&self) -> u8;\n fn b() {\n }\n}", [("b", 3, 4)]),
    ("semicolon in an array type", "fn a(x: [u8; 4]) -> [u8; 2] {\n}", [("a", 1, 2)]),
    ("brace in a string", 'fn a() {\n let s = "}";\n}', [("a", 1, 3)]),
    ("escaped quote", 'fn a() {\n let s = "\\"}";\n}', [("a", 1, 3)]),
    ("escaped backslash", 'fn a() {\n let s = "\\\\";\n let t = "}";\n}', [("a", 1, 4)]),
    ("raw string", 'fn a() {\n let s = r#"}"}"#;\n}', [("a", 1, 3)]),
    ("raw string over lines", 'fn a() {\n let s = r##"\n fn no() {\n "# }\n"##;\n}', [("a", 1, 6)]),
    ("byte strings", 'fn a() {\n let s = (b"}", br"}\\", c"}");\n}', [("a", 1, 3)]),
    ("a name that ends in r before a string", 'fn a() {\n m!(for"}");\n}', [("a", 1, 3)]),
    ("character", "fn a() {\n let c = ('{', '}', '\\'', b'}', '\\u{7d}', '\"');\n}", [("a", 1, 3)]),
    ("lifetimes", "fn a<'a>(x: &'a str, y: &'static str) -> X<'_> {\n 'l: loop { break 'l; }\n}", [("a", 1, 3)]),
    ("line comment", "fn a() {\n // } fn no() {\n}", [("a", 1, 3)]),
    ("doc comment with an apostrophe", "/// it's {\nfn a() {\n}", [("a", 2, 3)]),
    ("nested block comment", "fn a() {\n /* } /* } */ } */\n}", [("a", 1, 3)]),
    ("function pointer", "fn a(f: fn(u8) -> u8) {\n}", [("a", 1, 2)]),
    ("pointer in a type", "type F = fn(&mut R) -> u8;\nfn a() {\n}", [("a", 2, 3)]),
    ("Fn traits", "fn a<F: Fn() -> u8>(f: impl FnMut(u8)) where F: Send, {\n}", [("a", 1, 2)]),
    ("nested function", "fn a() {\n fn b() {\n }\n}", [("a", 1, 4), ("b", 2, 3)]),
    ("closure and match", "fn a() {\n let f = || { 1 };\n match f() { _ => {} }\n}", [("a", 1, 4)]),
    ("signature over lines", "pub async fn a(\n x: u8,\n) -> Result<(), E> {\n}", [("a", 1, 4)]),
    ("constant argument", "fn a() -> A<{ N }> {\n}", [("a", 1, 2)]),
    ("macro template", "macro_rules! m {\n ($n:ident) => { fn $n() { } };\n}\nfn a() {\n}", [("a", 4, 5)]),
    ("raw identifier", "fn r#loop() {\n}", [("r#loop", 1, 2)]),
    ("proptest", "proptest! {\n fn a(x in 0..9u8) {\n }\n}", [("a", 2, 3)]),
    ("format braces", 'fn a() {\n println!("{{{x}");\n}', [("a", 1, 3)]),
    ("unfinished", "fn a() {\n", [("a", 1, 1)]),
    ("extern", 'extern "C" { fn a(x: u8); }\nunsafe extern "C" fn b() {\n}', [("b", 2, 3)]),
]

# What problems() says with at most three lines.
BODY = " x;\n" * 3
JUDGED = [
    ("short", "fn a() {\n}\n", []),
    ("at the limit", "fn a() {\n x;\n}\n", []),
    ("long", f"fn a() {{\n{BODY}}}\n", [1]),
    ("reason above", f"// long: a table\nfn a() {{\n{BODY}}}\n", []),
    ("reason above attributes", f"/// Doc.\n// long: a table\n#[test]\nfn a() {{\n{BODY}}}\n", []),
    ("reason in the first line", f"fn a() {{\n // long: a table\n{BODY}}}\n", []),
    ("reason after a long signature", f"fn a(\n x: u8,\n) {{\n // long: a table\n{BODY}}}\n", []),
    ("reason too late", f"fn a() {{\n x;\n // long: a table\n{BODY}}}\n", [1, 3]),
    ("empty reason", f"// long:\nfn a() {{\n{BODY}}}\n", [1]),
    ("reason of another", f"// long: a table\n\nfn a() {{\n{BODY}}}\n", [1, 3]),
    ("stale reason", "// long: a table\nfn a() {\n}\n", [1]),
    ("the inner is short", f"// long: a table\nfn a() {{\n fn b() {{}}\n{BODY}}}\n", []),
]


def self_test():
    wrong = 0
    for what, text, expected in SNIPPETS:
        got = [(name, first, last) for name, first, _, last in functions(text)]
        if got != expected:
            print(f"{what}: found {got}, expected {expected}")
            wrong += 1
    for what, text, expected in JUDGED:
        got = [line for line, _ in problems(text, 3)]
        if got != expected:
            print(f"{what}: reported lines {got}, expected {expected}")
            wrong += 1
    print(f"function-lengths.py: {len(SNIPPETS) + len(JUDGED)} snippets, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
