/* The peers: plain sockets, on the conductor's thread. Nothing here waits for longer than PATIENCE_MS. */
#include "rondo_trace.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define NOTHING_MS 50

uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int left_ms(uint64_t deadline_ms)
{
    uint64_t now = now_ms();
    return now < deadline_ms ? (int)(deadline_ms - now) : 0;
}

static void peer_event(const struct connection *c, const char *event)
{
    trace_line(ON_PEER, c->number, "\"event\": \"%s\"", event);
}

static bool fail_system(const char *what)
{
    trace_error("%s: %s", what, strerror(errno));
    return false;
}

/* ---- sockets ---------------------------------------------------------------------------------------------- */

static void set_socket_buffers(int fd, size_t send, size_t receive)
{
    int size = (int)send;
    if (send != NOT_GIVEN)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    size = (int)receive;
    if (receive != NOT_GIVEN)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
}

static int new_socket(void)
{
    int family = run->scenario->family == TCP ? AF_INET : AF_UNIX;
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && run->scenario->buffers > 0)
        set_socket_buffers(fd, NOT_GIVEN, run->scenario->buffers);
    return fd;
}

static bool bind_to_loopback(int fd, struct address *address)
{
    struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    address->size = sizeof address->name;
    return bind(fd, (struct sockaddr *)&name, sizeof name) == 0 &&
           getsockname(fd, (struct sockaddr *)&address->name, &address->size) == 0;
}

/* The address of a Unix socket, and the URL of any that is known before. */
static void choose_address(void)
{
    struct address *address = &run->addresses[1];
    struct sockaddr_un *name = (struct sockaddr_un *)&address->name;
    const char *abstract = strrchr(run->folder, '/') + 1;
    name->sun_family = AF_UNIX;
    switch (run->scenario->family) {
    case TCP:
        name->sun_family = AF_UNSPEC;
        strcpy(run->url, "tcp://127.0.0.1:0");
        return;
    case UNIX:
        strcpy(name->sun_path, run->path);
        address->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(run->path) + 1);
        snprintf(run->url, sizeof run->url, "unix://%s", run->path);
        return;
    case ABSTRACT:
        strcpy(name->sun_path + 1, abstract);
        address->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(abstract));
        snprintf(run->url, sizeof run->url, "unix://@%s", abstract);
        return;
    }
}

static bool listen_now(void)
{
    struct address *address = &run->addresses[1];
    if (run->scenario->family != TCP &&
        bind(run->listener, (struct sockaddr *)&address->name, address->size) < 0)
        return fail_system("bind");
    return listen(run->listener, 128) == 0 ? true : fail_system("listen");
}

bool peers_start(void)
{
    choose_address();
    if (run->scenario->side == OF_SERVER || run->scenario->side > OF_ACCEPTED)
        return true;
    run->listener = new_socket();
    if (run->listener < 0)
        return fail_system("socket");
    if (run->scenario->family == TCP) { /* a port of its own, where nobody listens until the peer does */
        if (!bind_to_loopback(run->listener, &run->addresses[1]))
            return fail_system("bind");
        snprintf(run->url, sizeof run->url, "tcp://127.0.0.1:%u",
                 ntohs(((struct sockaddr_in *)&run->addresses[1].name)->sin_port));
    }
    return run->scenario->side == OF_ACCEPTED ? listen_now() : true;
}

static void close_peer(struct connection *c)
{
    close(c->peer);
    c->peer = -1;
}

void peers_close(void)
{
    for (unsigned i = 1; i <= CONNECTIONS_MAX; i++) {
        if (run->connections[i].peer >= 0)
            close_peer(&run->connections[i]);
    }
    if (run->listener >= 0)
        close(run->listener);
    run->listener = -1;
}

/* Or a small piece behind another would wait for its acknowledgement, behind the conductor's rest. */
static void without_delay(int fd)
{
    int on = 1;
    if (run->scenario->family == TCP)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static bool ensure_socket(struct connection *c)
{
    if (c->peer >= 0)
        return true;
    c->peer = new_socket();
    if (c->peer < 0)
        return fail_system("socket");
    without_delay(c->peer);
    return true;
}

static bool set_buffers(struct connection *c, const struct action *action)
{
    if (run->scenario->side == OF_CLIENT && c->peer < 0) {
        set_socket_buffers(run->listener, action->send, action->receive);
        return true;
    }
    if (!ensure_socket(c))
        return false;
    set_socket_buffers(c->peer, action->send, action->receive);
    return true;
}

/* ---- connecting ------------------------------------------------------------------------------------------- */

static void arriving(const struct connection *c)
{
    trace_lock();
    run->arriving[run->arriving_count++] = c->number;
    trace_unlock();
}

static void not_arriving(const struct connection *c)
{
    unsigned kept = 0;
    trace_lock();
    for (unsigned i = 0; i < run->arriving_count; i++) {
        if (run->arriving[i] != c->number)
            run->arriving[kept++] = run->arriving[i];
    }
    run->arriving_count = kept;
    trace_unlock();
}

/* Returns 0 or a positive errno. */
static int connect_within_patience(int fd, const struct address *address)
{
    uint64_t deadline_ms = now_ms() + PATIENCE_MS;
    while (connect(fd, (const struct sockaddr *)&address->name, address->size) < 0) {
        struct pollfd poll_fd = { .fd = fd, .events = POLLOUT };
        int error = errno;
        socklen_t size = sizeof error;
        if (error == EISCONN)
            return 0;
        if (error != EINPROGRESS && error != EAGAIN && error != EALREADY && error != EINTR)
            return error;
        if (left_ms(deadline_ms) == 0)
            return ETIMEDOUT;
        if (error == EAGAIN) { /* a Unix socket's full queue: nothing tells when there is room */
            poll(NULL, 0, 1);
            continue;
        }
        if (poll(&poll_fd, 1, left_ms(deadline_ms)) == 1)
            return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
    }
    return 0;
}

static bool hand_over_accepted(struct connection *c)
{
    struct pollfd poll_fd = { .fd = run->listener, .events = POLLIN };
    if (poll(&poll_fd, 1, PATIENCE_MS) != 1)
        return fail_system("accept");
    struct accepted accepted = { c, accept4(run->listener, NULL, NULL, SOCK_CLOEXEC) };
    if (accepted.fd < 0)
        return fail_system("accept");
    return on_loop(loop_accepted, &accepted);
}

static bool is_made(void *connection)
{
    return ((const struct connection *)connection)->made;
}

/* A pipe, a socket for datagrams; or what the transport starts itself. */
static bool open_other(struct connection *c)
{
    int fds[2] = { -1, -1 };
    struct accepted accepted = { c, -1 };
    enum side side = run->scenario->side;
    if (is_of_pipes(side)) {
        if (pipe2(fds, O_CLOEXEC) < 0)
            return fail_system("pipe");
        c->peer = fds[side == OF_READ_PIPE];
        accepted.fd = fds[side == OF_WRITE_PIPE];
        fcntl(c->peer, F_SETFL, O_NONBLOCK);
    } else if (is_of_datagrams(side)) {
        c->peer = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (c->peer < 0 || !bind_to_loopback(c->peer, &c->expected_peername))
            return fail_system("socket");
    }
    arriving(c);
    if (!on_loop(loop_open_other, &accepted) || !trace_wait(is_made, c, PATIENCE_MS))
        return false;
    if (!is_of_datagrams(side))
        return true;
    return connect(c->peer, (struct sockaddr *)&c->sockname.name, c->sockname.size) == 0
               ? true
               : fail_system("connect");
}

static bool peer_connect(struct connection *c, const struct action *action)
{
    if (c->asked) {
        trace_error("peer %u connect: it was connected already", c->number);
        return false;
    }
    c->asked = true;
    if (run->scenario->side > OF_ACCEPTED)
        return open_other(c);
    if (!ensure_socket(c))
        return false;
    if (run->scenario->family == TCP && !bind_to_loopback(c->peer, &c->expected_peername))
        return fail_system("bind");
    if (run->scenario->family != TCP)
        c->expected_peername.name.ss_family = AF_UNIX; /* it has no name */
    arriving(c);
    int error = connect_within_patience(c->peer, &run->addresses[action->number]);
    c->was_reset =
        error == ECONNRESET; /* it was connected, and reset before we could look; told when it is read from */
    if (error != 0 && !c->was_reset) {
        not_arriving(c);
        close_peer(c);
        if (error == ECONNREFUSED || error == ENOENT) {
            peer_event(c, "refused");
            return true;
        }
        errno = error;
        return fail_system("connect");
    }
    if (run->scenario->side == OF_ACCEPTED && !hand_over_accepted(c))
        return false;
    trace_wait(is_made, c, SOON_MS); /* there is no server, perhaps */
    return true;
}

static bool peer_accept(struct connection *c)
{
    struct pollfd poll_fd = { .fd = run->listener, .events = POLLIN };
    if (poll(&poll_fd, 1, PATIENCE_MS) != 1) {
        trace_error("peer %u accept: not within %d s", c->number, PATIENCE_MS / 1000);
        return false;
    }
    if (c->peer >= 0) {
        trace_error("peer %u accept: it was accepted already", c->number);
        return false;
    }
    c->peer = accept4(run->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (c->peer < 0)
        return fail_system("accept");
    without_delay(c->peer);
    return true;
}

/* ---- bytes ------------------------------------------------------------------------------------------------ */

/* What is there, up to `size` bytes. Returns how many; -1: nothing now; 0: an end, which is told. */
static ssize_t receive(struct connection *c, size_t size)
{
    char bytes[65536];
    if (c->was_reset) {
        c->was_reset = false;
        peer_event(c, "reset");
        return 0;
    }
    ssize_t n = read(c->peer, bytes, size < sizeof bytes ? size : sizeof bytes);
    if (n > 0) {
        trace_data(ON_PEER, c->number, "data", NULL, (rondo_bytes){ bytes, (size_t)n });
        return n;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return -1;
    if (n < 0 && errno != ECONNRESET)
        trace_line(ON_PEER, c->number, "\"event\": \"read_failed\", \"error\": %s", json_error(errno));
    else
        peer_event(c, n == 0 ? "eof" : "reset");
    return 0;
}

static bool peer_read(struct connection *c, size_t size, const char *missing)
{
    uint64_t deadline_ms = now_ms() + PATIENCE_MS;
    while (size > 0 && !trace_has_failed()) {
        struct pollfd poll_fd = { .fd = c->peer, .events = POLLIN };
        int left = left_ms(deadline_ms);
        if (left == 0 || poll(&poll_fd, 1, left) == 0) {
            trace_error("peer %u read: %s in %d s", c->number, missing, PATIENCE_MS / 1000);
            return false;
        }
        ssize_t n = receive(c, size);
        if (n == 0)
            return true;
        size -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

/* Send, and meanwhile read `size` bytes. */
static bool exchange(struct connection *c, rondo_bytes data, size_t size, const char *what)
{
    uint64_t deadline_ms = now_ms() + PATIENCE_MS;
    while (data.size > 0 || size > 0) {
        struct pollfd poll_fd = { .fd = c->peer };
        poll_fd.events = (short)((data.size > 0 ? POLLOUT : 0) | (size > 0 ? POLLIN : 0));
        int left = left_ms(deadline_ms);
        if (left == 0 || poll(&poll_fd, 1, left) == 0) {
            trace_error("peer %u %s: not within %d s; %zu bytes are unsent, %zu to be read", c->number, what,
                        PATIENCE_MS / 1000, data.size, size);
            return false;
        }
        ssize_t n = data.size > 0 ? write(c->peer, data.data, data.size) : 0;
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            peer_event(c, "broken");
            return true;
        }
        if (n > 0)
            data = (rondo_bytes){ data.data + n, data.size - (size_t)n };
        n = size > 0 ? receive(c, size) : -1;
        if (n == 0)
            return true;
        size -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

/* One, whatever its size. */
static bool send_datagram(struct connection *c, rondo_bytes data)
{
    if (send(c->peer, data.data, data.size, 0) < 0)
        trace_line(ON_PEER, c->number, "\"event\": \"broken\"");
    return true;
}

static bool receive_datagram(struct connection *c)
{
    struct pollfd poll_fd = { .fd = c->peer, .events = POLLIN };
    char bytes[65536];
    if (poll(&poll_fd, 1, PATIENCE_MS) != 1) {
        trace_error("peer %u receive: not within %d s", c->number, PATIENCE_MS / 1000);
        return false;
    }
    ssize_t n = recv(c->peer, bytes, sizeof bytes, 0);
    if (n < 0) {
        trace_line(ON_PEER, c->number, "\"event\": \"read_failed\", \"error\": %s", json_error(errno));
        return true;
    }
    char *text = json_text(bytes, n < 80 ? (size_t)n : 80);
    trace_line(ON_PEER, c->number, "\"event\": \"datagram\", \"size\": %zd, \"begins\": %s", n, text);
    free(text);
    return true;
}

static void peer_reset(struct connection *c)
{
    struct linger at_once = { .l_onoff = 1, .l_linger = 0 };
    setsockopt(c->peer, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close_peer(c);
}

static bool peer_is_quiet(const struct connection *c)
{
    struct pollfd poll_fd = { .fd = c->peer, .events = POLLIN };
    return poll(&poll_fd, 1, NOTHING_MS) == 0;
}

bool peer_do(struct connection *c, const struct action *action)
{
    switch (action->call) {
    case PEER_LISTEN:
        return listen_now();
    case PEER_STOP_LISTENING:
        close(run->listener);
        run->listener = -1;
        return true;
    case PEER_CONNECT:
        return peer_connect(c, action);
    case PEER_ACCEPT:
        return peer_accept(c);
    case PEER_BUFFERS:
        return set_buffers(c, action);
    }
    if (c->peer < 0) {
        trace_line(ON_PEER, c->number, "\"call\": \"%s\", \"gone\": true", peer_call_names[action->call]);
        return true;
    }
    switch (action->call) {
    case PEER_RECEIVE:
        return receive_datagram(c);
    case PEER_SEND:
        if (is_of_datagrams(run->scenario->side))
            return send_datagram(c, action->data[0]);
        return exchange(c, action->data[0], 0, "send");
    case PEER_EXCHANGE:
        return exchange(c, action->data[0], action->number, "exchange");
    case PEER_READ:
        return peer_read(c, action->number, "too few bytes");
    case PEER_READ_TO_END:
        return peer_read(c, SIZE_MAX, "no end");
    case PEER_READ_NOTHING:
        peer_event(c, peer_is_quiet(c) ? "nothing" : "something");
        return true;
    case PEER_HALF_CLOSE:
        if (shutdown(c->peer, SHUT_WR) < 0)
            peer_event(c, "broken");
        return true;
    case PEER_CLOSE:
        close_peer(c);
        return true;
    default:
        peer_reset(c);
        return true;
    }
}
