// Go's echo and line servers: a goroutine for each connection, as the documentation of package net shows.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

func echo(connection net.Conn) {
	defer connection.Close()
	buffer := make([]byte, 65536)
	for {
		n, err := connection.Read(buffer)
		if n > 0 {
			if _, err := connection.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func lines(connection net.Conn) {
	defer connection.Close()
	reader := bufio.NewReaderSize(connection, 65536)
	for {
		line, err := reader.ReadSlice('\n')
		if err != nil {
			return
		}
		if _, err := connection.Write(line); err != nil {
			return
		}
	}
}

func raiseDescriptorLimit() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
}

func main() {
	port := flag.Int("port", 0, "on 127.0.0.1")
	path := flag.String("unix", "", "a Unix socket instead")
	threads := flag.Int("threads", 1, "GOMAXPROCS")
	byLines := flag.Bool("lines", false, "write once for each line")
	flag.Parse()
	runtime.GOMAXPROCS(*threads)
	signal.Ignore(syscall.SIGUSR1)
	raiseDescriptorLimit()

	network, address := "tcp", fmt.Sprintf("127.0.0.1:%d", *port)
	if *path != "" {
		network, address = "unix", *path
		os.Remove(*path)
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	fmt.Fprintf(os.Stderr, "listening on %s://%s\n", network, listener.Addr())
	serve := echo
	if *byLines {
		serve = lines
	}
	for {
		if connection, err := listener.Accept(); err == nil {
			go serve(connection)
		}
	}
}
