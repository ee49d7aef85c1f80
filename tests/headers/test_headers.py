"""Public headers compile alone, as C and as C++; every example in the README and in a header compiles; and a floor can't
include from above.

Environment: RONDO_BUILD, the build folder; RONDO_SOURCE, the source folder.
"""

import os
import pathlib
import re
import shutil
import subprocess
import unittest

BUILD = pathlib.Path(os.environ["RONDO_BUILD"])
SOURCE = pathlib.Path(os.environ["RONDO_SOURCE"])
PUBLIC = [f"-I{SOURCE / floor / 'include'}" for floor in ("core", "net", "proto")]
STRICT = ["-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
C = [compiler for compiler in ("gcc", "clang") if shutil.which(compiler)]
CXX = [compiler for compiler in ("g++", "clang++") if shutil.which(compiler)]

HEADERS = sorted(path.relative_to(SOURCE) for path in SOURCE.glob("*/include/rondo/*.h"))


def compiles(compiler, language, code, flags):
    command = [compiler, "-x", language, *STRICT, *flags, "-"]
    # From /, since an #include "x.h" in standard input is looked up in the working folder first.
    return subprocess.run(command, input=code, capture_output=True, text=True, cwd="/")


def readme_examples():
    return re.findall(r"^```c\n(.*?)^```", (SOURCE / "README.md").read_text(), re.S | re.M)


def header_examples(header):
    """The indented code at the top of a header, in which '...' stands for the beginning of main."""
    top = (SOURCE / header).read_text().split("*/")[0]
    code = "\n".join(line[5:] for line in top.splitlines() if re.match(r" \*   ", line) or line == " *")
    if "static const rondo" not in code and "int main(" not in code:  # a fragment
        return None
    code = "#include <stdio.h>\n#include <rondo/rondo.h>\n" + code
    if "... " in code:
        code = code.replace("... ", "int main(int argc, char **argv) { return ") + "}\n"
    return code


class Headers(unittest.TestCase):
    def each(self, compilers, language, code, flags, name):
        self.assertTrue(compilers, "no compiler")
        for compiler in compilers:
            with self.subTest(compiler=compiler, of=name):
                result = compiles(compiler, language, code, flags)
                self.assertEqual(result.returncode, 0, result.stderr)

    def test_each_compiles_alone(self):
        self.assertGreaterEqual(len(HEADERS), 8)
        for header in HEADERS:
            include = f"#include <rondo/{header.name}>\nint unused;\n"
            self.each(C, "c", include, ["-std=c11", "-Wpedantic", *PUBLIC], header)
            self.each(CXX, "c++", include, ["-std=c++17", "-Wpedantic", *PUBLIC], header)

    def test_macros_work_in_cpp(self):
        code = '#include <rondo/rondo.h>\nrondo_bytes hello() { return RONDO_BYTES("hello"); }\n'
        self.each(CXX, "c++", code, ["-std=c++17", *PUBLIC], "RONDO_BYTES")

    def test_readme_examples_compile(self):
        self.assertGreaterEqual(len(readme_examples()), 3)
        for number, code in enumerate(readme_examples()):
            self.each(C, "c", code, ["-std=gnu11", *PUBLIC], f"README example {number}")

    def test_the_readme_shows_the_example_project(self):
        readme = (SOURCE / "README.md").read_text()
        self.assertIn((SOURCE / "tests" / "example" / "test_protocol.c").read_text(), readme)

    def test_each_member_of_asyncio_has_tests_that_exist(self):
        readme = (SOURCE / "README.md").read_text()
        table = readme.split("## asyncio, member by member")[1].split("\n## ")[0]
        rows = [row.split(" | ") for row in table.splitlines() if row.startswith("| ")][1:]
        self.assertGreaterEqual(len(rows), 25)
        suites = "".join(path.read_text() for path in (SOURCE / "tests").rglob("test_*.c"))
        known = {f"{suite}.{test}" for suite, test in re.findall(r"^Test\((\w+),\s*(\w+)", suites, re.M)}
        known |= {path.stem for path in (SOURCE / "tests" / "conformance" / "scenarios").glob("*.scenario")}
        for row in rows:
            with self.subTest(member=row[0]):
                named = set(re.findall(r"`([^`]+)`", row[-1]))
                self.assertTrue(named)
                self.assertEqual(named - known, set())

    def test_header_examples_compile(self):
        examples = {header: header_examples(header) for header in HEADERS}
        found = {header.name for header, code in examples.items() if code}
        self.assertEqual(found, {"app.h", "client.h", "datagram.h", "executor.h", "line.h", "pipe.h", "process.h", "producer.h", "stream.h", "strings.h",
                                 "subprocess.h", "task.h", "testing.h"})
        for header, code in examples.items():
            if code:
                self.each(C, "c", code, ["-std=gnu11", *PUBLIC], header)

    def test_a_floor_can_not_include_from_above(self):
        floors = ["core", "net", "proto"]
        private = {"core": "core/loop.h", "net": "net/transport.h", "proto": "proto/line_parser.h"}
        public = {"core": "rondo/loop.h", "net": "rondo/transport.h", "proto": "rondo/line.h"}
        for level, floor in enumerate(floors):
            flags = ["-std=gnu11", "-D_GNU_SOURCE"]
            for below in floors[: level + 1]:
                flags += [f"-I{SOURCE / below / 'include'}", f"-I{BUILD / 'floors' / below}"]
            for other in floors:
                allowed = floors.index(other) <= level
                for include in (f'#include "{private[other]}"\n', f"#include <{public[other]}>\n"):
                    with self.subTest(floor=floor, include=include):
                        result = compiles(C[0], "c", include + "int unused;\n", flags)
                        self.assertEqual(result.returncode == 0, allowed, result.stderr)

    def test_only_the_engine_includes_liburing(self):
        files = [path for floor in ("core", "net", "proto", "apps") for path in (SOURCE / floor).rglob("*.[ch]")]
        users = [path.name for path in files if "<liburing" in path.read_text()]
        self.assertEqual(users, ["uring.c"])

    @unittest.skipUnless((BUILD / "build.ninja").exists(), "reads Ninja's rules")
    def test_the_build_uses_just_these_include_folders(self):
        rules = (BUILD / "build.ninja").read_text()
        core = re.search(r"build core/CMakeFiles/rondo_core\.dir/loop\.c\.o:.*?\n\n", rules, re.S)
        self.assertIsNotNone(core)
        self.assertNotIn("net/include", core.group(0))
        self.assertNotIn("floors/net", core.group(0))


if __name__ == "__main__":
    unittest.main()
