"""rondo-date runs date(1): through callbacks, and through streams."""
import os
import subprocess
import unittest

import server as s
from server import ServerTest

APIS = ("protocol", "stream")


class Date(ServerTest):
    def test_it_prints_the_date(self):
        for api in APIS:
            with self.subTest(api=api):
                before = subprocess.run(["date", "-u", "+%Y-%m-%d"], capture_output=True, text=True).stdout
                status, stdout, stderr = s.run("date", "--api", api, "--", "-u", "+%Y-%m-%d")
                after = subprocess.run(["date", "-u", "+%Y-%m-%d"], capture_output=True, text=True).stdout
                self.assertEqual((status, stderr), (0, ""))
                self.assertIn(stdout, (before, after))
                status, stdout, _ = s.run("date", "--api", api)
                self.assertEqual(status, 0)
                self.assertRegex(stdout, r"^\w+ .*\d\d:\d\d:\d\d.*\n$")

    def test_what_date_refuses_is_a_failure(self):
        for api in APIS:
            status, stdout, stderr = s.run("date", "--api", api, "nonsense")
            self.assertEqual((status, stdout), (1, ""))
            self.assertIn("nonsense", stderr)

    def test_without_a_date_it_says_so(self):
        for api in APIS:
            status, _, stderr = s.run("date", "--api", api, env={**os.environ, "PATH": "/nowhere"})
            self.assertEqual(status, 1)
            self.assertIn("can't run date: No such file or directory", stderr)

    def test_in_a_closed_room(self):
        """Without stdin, stdout and stderr: nothing may be written into what else has their numbers."""
        for api in APIS:
            status = subprocess.run(["sh", "-c", 'exec "$0" --api "$1" <&- >&- 2>&-', s.path_of("date"), api],
                                    timeout=s.PATIENCE).returncode
            self.assertEqual(status, 1)  # it can't print


unittest.main()
