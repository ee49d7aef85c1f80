"""Install this build, then build the README's echo against what was installed, by each way a user has, and talk to it.

Environment: RONDO_BUILD, the build folder; RONDO_SOURCE, the source folder; CC; RONDO_SANITIZE, as for -fsanitize=.
"""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import unittest

BUILD = os.environ["RONDO_BUILD"]
SOURCE = pathlib.Path(os.environ["RONDO_SOURCE"])
CC = os.environ.get("CC", "cc")
SANITIZE = os.environ.get("RONDO_SANITIZE", "")
FLAGS = [f"-fsanitize={SANITIZE}"] if SANITIZE else []

PROJECT = """
cmake_minimum_required(VERSION 3.22)
project(user LANGUAGES C)
find_package(rondo 0.1 REQUIRED)
add_executable(echo_shared echo.c)
target_link_libraries(echo_shared PRIVATE rondo::rondo)
add_executable(echo_static echo.c)
target_link_libraries(echo_static PRIVATE rondo::static)
"""


def run(*command, **options):
    result = subprocess.run(command, capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stdout}{result.stderr}"
    return result.stdout


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="rondo-install-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.prefix = cls.folder / "prefix"
        run("cmake", "--install", BUILD, "--prefix", str(cls.prefix))
        cls.libdir = next(cls.prefix.rglob("rondo.pc")).parent.parent
        block = re.search(r"^```c\n(.*?)^```", (SOURCE / "README.md").read_text(), re.S | re.M)
        assert block, "README.md has no C example"
        (cls.folder / "echo.c").write_text(block.group(1))

    def pkg_config(self, *arguments):
        environment = dict(os.environ, PKG_CONFIG_PATH=str(self.libdir / "pkgconfig"))
        return run("pkg-config", *arguments, "rondo", env=environment).split()

    def compile(self, name, *flags):
        program = str(self.folder / name)
        run(CC, *FLAGS, "-o", program, str(self.folder / "echo.c"), *flags)
        return program

    def echoes(self, program):
        environment = dict(os.environ, LD_LIBRARY_PATH=str(self.libdir))
        server = subprocess.Popen(
            [program, "--listen", "tcp://127.0.0.1:0"], stderr=subprocess.PIPE, text=True, env=environment
        )
        try:
            port = int(re.fullmatch(r"listening on tcp://127\.0\.0\.1:(\d+)\n", server.stderr.readline()).group(1))
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                client.sendall(b"installed")
                client.shutdown(socket.SHUT_WR)
                self.assertEqual(b"".join(iter(lambda: client.recv(100), b"")), b"installed")
        finally:
            server.send_signal(signal.SIGTERM)
            report = server.communicate(timeout=20)[1]
        self.assertEqual(server.returncode, 0, report)

    def test_headers_are_all_there(self):
        sources = {path.name for path in SOURCE.glob("*/include/rondo/*.h")}
        self.assertEqual({path.name for path in (self.prefix / "include" / "rondo").iterdir()}, sources)

    def test_pkg_config_shared(self):
        program = self.compile("shared", *self.pkg_config("--cflags", "--libs"))
        self.assertIn("librondo.so", run("readelf", "-d", program))
        self.echoes(program)

    def test_pkg_config_static(self):
        flags = [str(self.libdir / "librondo.a") if flag == "-lrondo" else flag
                 for flag in self.pkg_config("--cflags", "--static", "--libs")]
        program = self.compile("static", *flags)
        self.assertNotIn("librondo.so", run("readelf", "-d", program))
        self.echoes(program)

    def test_pkg_config_names_what_the_shared_library_needs_for_the_static_one(self):
        needed = run("readelf", "-d", str(self.libdir / "librondo.so"))
        static, shared = self.pkg_config("--static", "--libs"), self.pkg_config("--libs")
        for library in ("uring", "jemalloc"):
            self.assertEqual(f"-l{library}" in static, f"[lib{library}.so" in needed)
            self.assertNotIn(f"-l{library}", shared)

    def test_cmake_package(self):
        (self.folder / "CMakeLists.txt").write_text(PROJECT)
        build = str(self.folder / "build")
        run("cmake", "-G", "Ninja", "-S", str(self.folder), "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}",
            f"-DCMAKE_C_COMPILER={CC}", "-DCMAKE_C_FLAGS=" + " ".join(FLAGS))
        run("cmake", "--build", build)
        self.echoes(build + "/echo_shared")
        self.echoes(build + "/echo_static")

    @unittest.skipIf("thread" in SANITIZE, "Criterion doesn't start under ThreadSanitizer")
    def test_the_example_project_tests_its_protocol(self):
        build = str(self.folder / "example")
        run("cmake", "-G", "Ninja", "-S", str(SOURCE / "tests" / "example"), "-B", build,
            f"-DCMAKE_PREFIX_PATH={self.prefix}", f"-DCMAKE_C_COMPILER={CC}",
            "-DCMAKE_C_FLAGS=-Wall -Wextra -Werror " + " ".join(FLAGS))
        run("cmake", "--build", build)
        suppressions = SOURCE / "tests" / "support" / "lsan.supp"
        environment = dict(os.environ, LSAN_OPTIONS=f"suppressions={suppressions}:print_suppressions=0",
                           ASAN_OPTIONS="fast_unwind_on_malloc=0")
        report = run("ctest", "--test-dir", build, "--verbose", env=environment)
        self.assertRegex(report, r"Tested: 3 \| Passing: 3")
        self.assertNotIn("Sanitizer", report)

    def test_the_library_exports_its_public_names_only(self):
        library = str(next(self.prefix.rglob("librondo.so")))
        names = [line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()]
        strangers = [name for name in names if not name.startswith("rondo_")
                     and not re.match(r"__(asan|ubsan|tsan|odr|lsan|sanitizer)|_(init|fini|edata|end)$|__bss_start", name)]
        self.assertEqual(strangers, [])


if __name__ == "__main__":
    unittest.main()
