#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the tables of docs/format.md with core/format.h: check_format_doc.py PROGRAM docs/format.md core/format.h

PROGRAM is format_offsets.c, compiled: offsets and sizes are the compiler's.  Three lists must agree, each with each: what the header
declares, what the program prints, what the document says.  In the document the table of a struct stands below the heading
'### struct NAME (N bytes)' and has the columns offset, size, field, meaning; constants are in tables with the columns constant,
value, meaning.
"""
import re
import subprocess
import sys

STRUCT_COLUMNS = ["offset", "size", "field", "meaning"]
CONST_COLUMNS = ["constant", "value", "meaning"]
GUARD = "HOLDFAST_CORE_FORMAT_H"
# Constants that the format depends on and another header declares.
ELSEWHERE = {"LOG_PAYLOAD_MAX", "GROUP_FRAME_BYTES"}


class Format:
    """structs: {name: (size, [(field, offset, size or "var")])}; consts: {name: value}"""

    def __init__(self):
        self.structs = {}
        self.consts = {}


def number(text):
    return text if text.startswith('"') else int(text, 0)


def size_of(text):
    return text if text == "var" else int(text)


def read_program(text):
    f = Format()
    for line in text.splitlines():
        words = line.split()
        if words[0] == "struct":
            f.structs[words[1]] = (int(words[2]), [])
        elif words[0] == "field":
            f.structs[words[1]][1].append((words[2], int(words[3]), size_of(words[4])))
        else:
            f.consts[words[1]] = number(words[2])
    return f


def read_doc(text):
    """The document's tables, and what is wrong with their form."""
    f, wrong, columns, struct = Format(), [], None, None
    for lineno, line in enumerate(text.splitlines(), 1):
        heading = re.fullmatch(r"### struct (disk_\w+) \((\d+) bytes\)", line)
        if line.startswith("#"):
            struct = heading.group(1) if heading else None
            if "struct" in line and not heading:
                wrong.append(f"line {lineno}: heading of a struct, but not in the form expected")
            if heading and struct in f.structs:
                wrong.append(f"line {lineno}: {struct} for the second time")
            if heading:
                f.structs[struct] = (int(heading.group(2)), [])
        if not line.startswith("|"):
            columns = None
            continue
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if columns is None:
            columns = cells
        elif not set(line) <= set("|-: "):
            try:
                if columns == STRUCT_COLUMNS and struct:
                    f.structs[struct][1].append((cells[2], int(cells[0]), size_of(cells[1])))
                elif columns == CONST_COLUMNS:
                    if cells[0] in f.consts:
                        wrong.append(f"line {lineno}: {cells[0]} for the second time")
                    f.consts[cells[0]] = number(cells[1])
                if columns in (STRUCT_COLUMNS, CONST_COLUMNS) and (len(cells) != len(columns) or not cells[-1]):
                    wrong.append(f"line {lineno}: a row without its {len(columns)} cells")
            except (IndexError, ValueError):
                wrong.append(f"line {lineno}: a row that cannot be read: {line}")
    return f, wrong


def read_header(text):
    """{struct: [fields]} and the names of all constants."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    structs = {}
    for name, body in re.findall(r"^struct (disk_\w+) \{(.*?)^\};", text, re.S | re.M):
        fields = []
        for declaration in filter(None, (d.strip() for d in body.split(";"))):
            names = re.sub(r"^(struct\s+)?\w+\s+", "", declaration)
            fields += [re.sub(r"\[.*", "", n.strip(), flags=re.S) for n in names.split(",")]
        structs[name] = fields
    consts = set(re.findall(r"^#define (\w+)[ \t]+\S", text, re.M)) - {GUARD}
    for body in re.findall(r"^enum \w+ \{(.*?)\};", text, re.S | re.M):
        consts |= {entry.split("=")[0].strip() for entry in body.split(",") if entry.strip()}
    return structs, consts


def differences(kind, a, b, left, right):
    """Names that only one of the two has."""
    return [f"{kind} {n}: in {left}, not in {right}" for n in sorted(set(a) - set(b))] + \
        [f"{kind} {n}: in {right}, not in {left}" for n in sorted(set(b) - set(a))]


def check_program(program, header):
    """Does the program print everything that there is?"""
    structs, consts = header
    wrong = differences("struct", structs, program.structs, "format.h", "format_offsets.c")
    wrong += differences("constant", consts | ELSEWHERE, program.consts, "format.h", "format_offsets.c")
    for name, (size, fields) in program.structs.items():
        if name in structs and [f[0] for f in fields] != structs[name]:
            wrong.append(f"{name}: format_offsets.c has fields {[f[0] for f in fields]}, format.h {structs[name]}")
        end = 0
        for field, offset, field_size in fields:
            if offset != end:
                wrong.append(f"{name}.{field}: at {offset}, though the field before ends at {end}")
            end = offset + (0 if field_size == "var" else field_size)
        if end != size:
            wrong.append(f"{name}: has {size} bytes, its fields {end}")
    return wrong


def check_doc(doc, program):
    wrong = differences("struct", program.structs, doc.structs, "the code", "the document")
    wrong += differences("constant", program.consts, doc.consts, "the code", "the document")
    for name in sorted(set(doc.structs) & set(program.structs)):
        if doc.structs[name][0] != program.structs[name][0]:
            wrong.append(f"{name}: {program.structs[name][0]} bytes, the document says {doc.structs[name][0]}")
        said, is_ = doc.structs[name][1], program.structs[name][1]
        if said != is_:
            wrong += [f"{name}: the document has no row {row}" for row in is_ if row not in said]
            wrong += [f"{name}: the document's row {row} is wrong" for row in said if row not in is_]
            if sorted(said, key=str) == sorted(is_, key=str):
                wrong.append(f"{name}: the document's rows are in another order")
    for name in sorted(set(doc.consts) & set(program.consts)):
        if doc.consts[name] != program.consts[name]:
            wrong.append(f"{name}: {program.consts[name]}, the document says {doc.consts[name]}")
    return wrong


def check_ourselves(text, program):
    """A document that lacks any one row, or says another number in it, must be found wrong."""
    lines, missed = text.splitlines(), []
    for i, line in enumerate(lines):
        row = re.match(r"\| (\d+) \| (\d+|var) \| \w+ \||\| [A-Z][A-Z0-9_]+ \| (\d|\")", line)
        if not row:
            continue
        changed = re.sub(r"\| (\d+)", lambda m: f"| {int(m.group(1)) + 1}", line, count=1) if row.group(1) else None
        for other in [[], [changed]] if changed else [[]]:
            doc, wrong = read_doc("\n".join(lines[:i] + other + lines[i + 1:]))
            if not wrong and not check_doc(doc, program):
                missed.append(f"this test does not notice that line {i + 1} is {'wrong' if other else 'missing'}: {line}")
    return missed


def main():
    program_path, doc_path, header_path = sys.argv[1:]
    program = read_program(subprocess.run([program_path], check=True, stdout=subprocess.PIPE, text=True).stdout)
    with open(doc_path, encoding="utf-8") as f:
        text = f.read()
    with open(header_path, encoding="utf-8") as f:
        header = read_header(f.read())
    doc, wrong = read_doc(text)
    wrong += check_program(program, header) + check_doc(doc, program)
    wrong = wrong or check_ourselves(text, program)
    for line in wrong:
        print(line)
    print(f"{len(program.structs)} structs, {sum(len(s[1]) for s in program.structs.values())} fields, "
          f"{len(program.consts)} constants: {len(wrong)} differences")
    return 1 if wrong or not program.structs or not program.consts else 0


if __name__ == "__main__":
    sys.exit(main())
