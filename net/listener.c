#include "net/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/addresses.h"
#include "net/datagram.h"
#include "net/handshakes.h"
#include "net/server.h"
#include "net/transport.h"

#define BACK_OFF_MIN_MS 10
#define BACK_OFF_MAX_MS 1000
#define RECOVERED_MS    1000

#define DEFERRED_SECONDS 1    /* by the kernel's count, which is that of its SYN-ACKs */
#define HANDSHAKES_MS    1500 /* after which they are connections, or their clients have gone */
#define LOOK_MS          20

static void accept_done(struct op *op, const struct completion *completion);
static void timer_expired(rondo_timer *timer);
static void drain_queue(struct listener *listener);
static bool somebody_is_queued(const struct listener *listener);

static rondo_loop *loop_of(const struct listener *listener)
{
    return listener->server->service->loop;
}

/* Shards that wait at one queue are woken in turn only if each lines up again behind the others, after every connection:
 * one that stays would be woken first for ever. */
static void accept_arm(struct listener *listener)
{
    struct engine *engine = loop_of(listener)->engine;
    listener->accept.done = accept_done;
    if (listener->address->is_shared)
        engine_accept_one(engine, &listener->accept, listener->fd);
    else
        engine_accept(engine, &listener->accept, listener->fd);
}

void listener_init(struct listener *listener, struct rondo_server *server, struct address *address, int fd)
{
    *listener = (struct listener){ .server = server, .address = address, .fd = fd, .spare = -1 };
    if (fd < 0)
        listener->state = LISTENER_CLOSED; /* another shard has it */
}

/* ---- datagrams -------------------------------------------------------------------------------------------- */

static int endpoint_start(struct listener *listener)
{
    struct rondo_server *server = listener->server;
    const rondo_protocol *protocol = server_build_protocol(server, -1);
    struct transport_start start = {
        .owner = &server->owner,
        .protocol = protocol,
        .kind = DATAGRAMS,
        .fd = listener->fd,
        .family = listener->address->family,
        .later = true,
        .keeps_fd = true,
    };
    if (protocol == NULL || protocol->datagram_received == NULL) {
        rondo_log(RONDO_LOG_ERROR, "%s: its protocol has no datagram_received", listener->address->url);
        return -EINVAL;
    }
    listener->endpoint = datagrams_open(server->service, &start);
    if (listener->endpoint == NULL)
        return -ENOMEM;
    listener->state = LISTENER_ENDPOINT;
    return 0;
}

/* The transport closes the socket, when it has come to its end. */
static void endpoint_left(struct listener *listener)
{
    listener->state = LISTENER_CLOSED;
    server_listener_closed(listener->server);
}

void listener_lost(struct listener *listener)
{
    listener->endpoint = NULL;
    listener->fd = -1;
    address_closed(listener->address);
    if (listener->state == LISTENER_ENDPOINT)
        endpoint_left(listener);
}

/* The handshake is over when the client's acknowledgement comes, but the connection is made by its first bytes, or when it
 * has stayed silent for so many seconds. */
static void set_defer_accept(struct listener *listener, int seconds)
{
    int rc = setsockopt(listener->fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof seconds);
    listener->defers = rc == 0 && seconds > 0;
    if (rc < 0)
        rondo_log(RONDO_LOG_DEBUG, "%s: TCP_DEFER_ACCEPT: %s", listener->address->url, strerror(errno));
}

int listener_start(struct listener *listener, unsigned backlog)
{
    if (listener->state != LISTENER_IDLE)
        return 0;
    if (address_is_of_datagrams(listener->address))
        return endpoint_start(listener);
    const struct rondo_server *server = listener->server;
    bool client_talks_first = server->build_protocol == NULL && server->protocol->defer_accept;
    if (client_talks_first && listener->address->kind == ADDRESS_TCP)
        set_defer_accept(listener, DEFERRED_SECONDS);
    int rc = address_listen(listener->address, listener->fd, backlog);
    if (rc < 0)
        return rc;
    if (listener->address->kind == ADDRESS_UNIX)
        listener->spare = fcntl(listener->fd, F_DUPFD_CLOEXEC, 0); /* without one it goes, too */
    listener->state = LISTENER_ACCEPTING;
    accept_arm(listener);
    return 0;
}

/* Closing a listening socket resets the connections in its queue, and between the last accept and the close one more
 * may get there. So first it is made deaf: a packet that has passed a router, or comes from any usual host, has fewer
 * hops left than 255, and a listener that wants as many drops its SYN. The client tries again, elsewhere or in vain.
 * Handshakes under way go on (the kernel looks at their packets before it asks the listener), and their connections
 * inherit the option, which is taken off again when they are accepted. (A socket filter would do the same, but in
 * containers without capabilities the kernel may refuse it.) */
enum { ANY_HOPS = 0, ONLY_NEIGHBOURS = 255 };

static void set_hops_wanted(const struct listener *listener, int fd, int hops)
{
    int rc = listener->address->family == AF_INET6
                 ? setsockopt(fd, IPPROTO_IPV6, IPV6_MINHOPCOUNT, &hops, sizeof hops)
                 : setsockopt(fd, IPPROTO_IP, IP_MINTTL, &hops, sizeof hops);
    if (rc < 0)
        rondo_log(RONDO_LOG_DEBUG, "descriptor %d: minimum of hops %d: %s", fd, hops, strerror(errno));
}

/* As our own listening sockets do for theirs. */
static void set_no_delay(const struct listener *listener, int fd)
{
    int on = 1;
    if (listener->address->kind == ADDRESS_ADOPTED && listener->address->family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void accepted(struct listener *listener, int fd)
{
    struct rondo_server *server = listener->server;
    if (listener->state == LISTENER_DRAINING && listener->address->kind == ADDRESS_TCP)
        set_hops_wanted(listener, fd, ANY_HOPS);
    if (listener->state >= LISTENER_CLOSING || server->service->aborting || !service_admit(server->service)) {
        close(fd);
        return;
    }
    const rondo_protocol *protocol = server_build_protocol(server, fd);
    if (protocol == NULL ||
        listener->state >= LISTENER_CLOSING) { /* refused; or that call has closed the server */
        service_forget(server->service);
        close(fd);
        return;
    }
    set_no_delay(listener, fd);
    struct transport_start start = {
        .owner = &server->owner,
        .protocol = protocol,
        .fd = fd,
        .family = listener->address->family,
        .has_bytes = listener->defers,
    };
    transport_open(server->service, &start); /* its connection_made may close us */
}

/* ---- shortage ------------------------------------------------------------------------------------------- */

static void set_timer(struct listener *listener, unsigned delay_ms)
{
    rondo_call_later(loop_of(listener), &listener->timer, delay_ms, timer_expired);
}

/* The connection stays queued in the kernel; trying again at once would only fail again, and spin. */
static void back_off(struct listener *listener, int error)
{
    if (!listener->short_of_resources) {
        listener->short_of_resources = true;
        rondo_log(RONDO_LOG_WARNING, "%s: can't accept: %s: new connections wait; %s", listener->address->url,
                  strerror(-error),
                  error == -EMFILE ? "raise the limit of descriptors (ulimit -n), or set --max-connections"
                                   : "trying again");
    }
    listener->back_off_ms = listener->back_off_ms == 0 ? BACK_OFF_MIN_MS : 2 * listener->back_off_ms;
    if (listener->back_off_ms > BACK_OFF_MAX_MS)
        listener->back_off_ms = BACK_OFF_MAX_MS;
    set_timer(listener, listener->back_off_ms);
}

static void recovering(struct listener *listener)
{
    if (!listener->short_of_resources)
        return;
    listener->back_off_ms = 0;
    set_timer(listener, RECOVERED_MS); /* another failure until then belongs to the same episode */
}

/* Who has connected, but has not talked yet, is no connection so far where accepting is deferred: it gets the time to
 * become one. */
static void stop_accepting(struct listener *listener)
{
    bool may_wait = listener->defers && rondo_time_ms(loop_of(listener)) < listener->last_moment_ms;
    if (may_wait && handshakes_are_under_way(listener->fd))
        set_timer(listener, LOOK_MS);
    else
        engine_cancel(loop_of(listener)->engine, &listener->accept); /* accept_done drains the queue */
}

static void timer_expired(rondo_timer *timer)
{
    struct listener *listener = rondo_container_of(timer, struct listener, timer);
    switch (listener->state) {
    case LISTENER_BACKING_OFF:
        listener->state = LISTENER_ACCEPTING;
        accept_arm(listener);
        return;
    case LISTENER_ACCEPTING:
        listener->short_of_resources = false;
        rondo_log(RONDO_LOG_INFO, "%s: accepting again", listener->address->url);
        return;
    case LISTENER_DRAINING:
        if (listener->accept.in_kernel)
            stop_accepting(listener);
        else
            drain_queue(listener);
        return;
    case LISTENER_IDLE:
    case LISTENER_ENDPOINT:
    case LISTENER_CLOSING:
    case LISTENER_CLOSED:
        return;
    }
}

/* These say something about one connection that ended in the queue, not about the socket. */
static bool is_passing(int error)
{
    return error == -ECONNABORTED || error == -EPROTO || error == -EAGAIN || error == -EINTR ||
           error == -EPERM;
}

/* Returns whether there was one. */
static bool give_spare(struct listener *listener)
{
    if (listener->spare < 0)
        return false;
    close(listener->spare);
    listener->spare = -1;
    return true;
}

/* ---- accepting ------------------------------------------------------------------------------------------ */

static void close_now(struct listener *listener)
{
    listener->state = LISTENER_CLOSED;
    give_spare(listener);
    address_close(listener->address, listener->fd);
    server_listener_closed(listener->server);
}

static void accept_ended(struct listener *listener, int result)
{
    switch (listener->state) {
    case LISTENER_ACCEPTING:
        if (result >= 0 || (is_passing(result) && result != -EAGAIN)) {
            accept_arm(listener);
            return;
        }
        listener->state = LISTENER_BACKING_OFF;
        if (address_is_deaf(listener->address))
            return;            /* another shard has begun to drain: so shall we, in a moment */
        if (result == -EAGAIN) /* adopted without blocking, which some kernels take literally */
            set_timer(listener, BACK_OFF_MIN_MS);
        else
            back_off(listener, result);
        return;
    case LISTENER_DRAINING:
        if (result >= 0 && rondo_timer_is_running(&listener->timer)) {
            accept_arm(listener); /* handshakes are under way */
            return;
        }
        rondo_timer_cancel(&listener->timer);
        if (result < 0 && !is_passing(result) && result != -ECANCELED && somebody_is_queued(listener)) {
            rondo_call_cancel(&listener->look);
            back_off(listener, result);
        } else {
            drain_queue(listener);
        }
        return;
    case LISTENER_CLOSING:
        close_now(listener);
        return;
    case LISTENER_IDLE:
    case LISTENER_ENDPOINT:
    case LISTENER_BACKING_OFF:
    case LISTENER_CLOSED: /* by the connection_made of what has just been accepted */
        return;
    }
}

static void accept_done(struct op *op, const struct completion *completion)
{
    struct listener *listener = rondo_container_of(op, struct listener, accept);
    if (completion->result >= 0) {
        recovering(listener);
        accepted(listener, completion->result);
    }
    if (!completion->more)
        accept_ended(listener, completion->result);
}

/* ---- the end -------------------------------------------------------------------------------------------- */

void listener_close(struct listener *listener)
{
    if (listener->state >= LISTENER_CLOSING)
        return;
    if (listener->state == LISTENER_ENDPOINT) {
        rondo_close(listener->endpoint);
        endpoint_left(listener);
        return;
    }
    listener->state = LISTENER_CLOSING;
    rondo_timer_cancel(&listener->timer);
    rondo_call_cancel(&listener->look);
    address_shut(listener->address, listener->fd);
    engine_cancel(loop_of(listener)->engine, &listener->accept);
    if (!listener->accept.in_kernel)
        close_now(listener);
}

void listener_drain(struct listener *listener)
{
    enum listener_state before = listener->state;
    if (before >= LISTENER_DRAINING)
        return;
    if (before == LISTENER_IDLE) {
        listener_close(listener);
        return;
    }
    if (before == LISTENER_ENDPOINT) {
        endpoint_left(listener); /* the transport is drained as all others */
        return;
    }
    listener->state = LISTENER_DRAINING;
    rondo_timer_cancel(&listener->timer);
    if (listener->address->kind == ADDRESS_TCP)
        set_hops_wanted(listener, listener->fd, ONLY_NEIGHBOURS);
    else if (listener->address->kind == ADDRESS_UNIX)
        address_make_deaf(listener->address, listener->fd);
    listener->last_moment_ms = rondo_time_ms(loop_of(listener)) + HANDSHAKES_MS;
    if (before == LISTENER_ACCEPTING)
        stop_accepting(listener);
    else
        drain_queue(listener);
}

/* Asked first, since accept takes a descriptor before it looks: it may say EMFILE when nobody waits. Of a Unix socket that
 * was made deaf it is always true: there the spare descriptor shows whether somebody is. */
static bool somebody_is_queued(const struct listener *listener)
{
    struct pollfd queue = { .fd = listener->fd, .events = POLLIN };
    return poll(&queue, 1, 0) > 0;
}

static void drain_own_queue(struct listener *listener)
{
    fcntl(listener->fd, F_SETFL, fcntl(listener->fd, F_GETFL) | O_NONBLOCK);
    while (listener->state == LISTENER_DRAINING && somebody_is_queued(listener)) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
        int error = fd < 0 ? -errno : 0;
        if (fd >= 0) {
            accepted(listener, fd);
        } else if (error == -EAGAIN) {
            break;
        } else if (!is_passing(error) && !give_spare(listener)) {
            back_off(listener, error); /* descriptors come back as connections end */
            return;
        }
    }
    listener_close(listener);
}

/* The call after the next turn's completions, for which it waits through two. */
static void look(rondo_call *call)
{
    struct listener *listener = rondo_container_of(call, struct listener, look);
    listener->drained = listener->looked;
    listener->looked = true;
    if (listener->drained)
        engine_cancel(loop_of(listener)->engine, &listener->accept);
    else
        rondo_call_soon(loop_of(listener), &listener->look, look);
}

/* The socket may be other processes', too: it can't be told to hear nobody, nor not to block, when somebody else was
 * faster. One turn with an accept for all that come takes what is queued now. */
static void drain_adopted_queue(struct listener *listener)
{
    if (listener->drained || !somebody_is_queued(listener)) {
        listener_close(listener);
        return;
    }
    listener->looked = false;
    if (!list_contains_link(&listener->look._link))
        rondo_call_soon(loop_of(listener), &listener->look, look);
    engine_accept(loop_of(listener)->engine, &listener->accept, listener->fd);
}

static void drain_queue(struct listener *listener)
{
    if (listener->address->kind == ADDRESS_ADOPTED)
        drain_adopted_queue(listener);
    else
        drain_own_queue(listener);
}
