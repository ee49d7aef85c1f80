"""rondo-exec: a process for each connection, which is its stdin and stdout."""
import os
import signal
import tempfile
import unittest

import server as s
from server import ServerTest, data_of, receive, receive_all


class Exec(ServerTest):
    def children(self, server):
        """Process ids, zombies too."""
        found = []
        for task in os.listdir(f"/proc/{server.pid}/task"):
            found += server.proc(f"task/{task}/children").split()
        return found

    def serve_program(self, *argv, options=(), listen=(s.V4,), status=0):
        return self.serve("exec", *options, listen=listen, status=status, words=("--", *argv))

    def test_the_program_talks_to_the_client(self):
        server = self.serve_program("cat", listen=(s.V4, s.V6))
        for address in server.addresses:
            data = data_of(300000)
            sock = self.connect(server, address)
            self.assert_same(s.stream(sock, data, half_close=True), data)
        s.until(lambda: not self.children(server), "no child is left")

    def test_many_at_a_time_each_have_their_own(self):
        server = self.serve_program("sh", "-c", 'read line; echo "$line $$"')
        socks = [self.connect(server) for _ in range(30)]
        for i, sock in enumerate(socks):
            sock.sendall(b"%d\n" % i)
        answers = [receive_all(sock).split() for sock in socks]
        self.assertEqual([answer[0] for answer in answers], [b"%d" % i for i in range(30)])
        self.assertEqual(len({answer[1] for answer in answers}), 30)
        s.until(lambda: not self.children(server), "no child is left")

    def test_an_answer_arrives_whole_although_its_question_was_not_read(self):
        server = self.serve_program("head", "-c", "200000", "/dev/zero")
        sock = self.connect(server)
        sock.sendall(b"nobody reads this")
        self.assertEqual(len(receive_all(sock)), 200000)

    def test_the_child_has_the_connection_and_nothing_else(self):
        server = self.serve_program("sh", "-c", "readlink /proc/$$/fd/0 /proc/$$/fd/1; ls /proc/$$/fd")
        others = [self.connect(server, timeout=None) for _ in range(3)]
        told = receive_all(self.connect(server)).decode().split()
        self.assertRegex(told[0], r"^socket:")
        self.assertEqual(told[0], told[1])
        self.assertEqual(set(told[2:]), {"0", "1", "2"})
        for sock in others:
            receive_all(sock)

    def test_the_end_waits_for_a_child_and_its_answer(self):
        server = self.serve_program("sh", "-c", "echo begun; read line; echo ended with $line")
        sock = self.connect(server)
        self.assertEqual(receive(sock, 6), b"begun\n")
        server.signal(signal.SIGTERM)
        server.wait_for("draining")
        sock.sendall(b"grace\n")
        self.assertEqual(receive_all(sock), b"ended with grace\n")
        self.assertEqual(server.wait_for_exit(), 0)

    def test_at_the_drain_timeout_it_is_killed(self):
        server = self.serve_program("sh", "-c", "trap '' TERM; echo $$; exec sleep 1000",
                                    options=("--drain-timeout", "0.3"))
        sock = self.connect(server)
        pid = int(sock.recv(100))
        self.assertEqual(server.stop(), 0)
        self.assertFalse(os.path.exists(f"/proc/{pid}"))

    def test_a_child_that_outlives_its_connection_is_reaped(self):
        with tempfile.TemporaryDirectory() as folder:
            fifo = folder + "/fifo"
            os.mkfifo(fifo)
            server = self.serve_program("sh", "-c", f"echo $$; exec >&- <&-; read line < {fifo}")
            sock = self.connect(server)
            pid = int(sock.recv(100))
            sock.close()
            self.assertIn(str(pid), self.children(server))
            with open(fifo, "w") as file:
                file.write("enough\n")
            s.until(lambda: not self.children(server), "it is reaped")
            self.assertTrue(server.process.poll() is None)

    def test_the_idle_timeout_is_how_long_one_may_last(self):
        server = self.serve_program("sleep", "1000", options=("--idle-timeout", "0.2"))
        sock = self.connect(server)
        self.assertEqual(receive_all(sock), b"")
        s.until(lambda: not self.children(server), "it is killed")

    def test_a_program_that_is_not_there_ends_connections_not_the_server(self):
        server = self.serve_program("/no/such/program")
        for _ in range(3):
            try:
                sock = self.connect(server)
            except ConnectionResetError:
                continue  # as early as that, on a busy machine
            self.assertTrue(s.was_reset(sock))
        server.wait_for("can't run /no/such/program: No such file or directory", 3)

    def test_it_is_said_what_is_wanted(self):
        for options, said in (((), "PROGRAM [ARGUMENT...] is wanted"), (("--sandbox", "cat"), "no processes")):
            status, _, stderr = s.run("exec", *options)
            self.assertEqual(status, 2)
            self.assertIn(said, stderr)


unittest.main()
