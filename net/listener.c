#include "net/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/transport.h"

#define BACK_OFF_MIN_MS 10
#define BACK_OFF_MAX_MS 1000
#define RECOVERED_MS    1000

static void accept_done(struct op *op, const struct completion *completion);
static void timer_expired(rondo_timer *timer);
static void drain_queue(struct listener *listener);

static void accept_arm(struct listener *listener)
{
    listener->accept.done = accept_done;
    engine_accept(listener->service->loop->engine, &listener->accept, listener->fd);
}

void listener_open(struct listener *listener, struct service *service, const struct address *address, int fd)
{
    *listener =
        (struct listener){ .service = service, .address = address, .fd = fd, .state = LISTENER_ACCEPTING };
    service->loop->users++;
    accept_arm(listener);
}

/* Closing a listening socket resets the connections in its queue, and between the last accept and the close one more
 * may get there. So first it is made deaf: a packet that has passed a router, or comes from any usual host, has fewer
 * hops left than 255, and a listener that wants as many drops its SYN. The client tries again, elsewhere or in vain.
 * Handshakes under way go on (the kernel looks at their packets before it asks the listener), and their connections
 * inherit the option, which is taken off again when they are accepted. (A socket filter would do the same, but in
 * containers without capabilities the kernel may refuse it.) */
enum { ANY_HOPS = 0, ONLY_NEIGHBOURS = 255 };

static void set_hops_wanted(int fd, int hops)
{
    int family = AF_INET;
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &(socklen_t){ sizeof family });
    int rc = family == AF_INET6 ? setsockopt(fd, IPPROTO_IPV6, IPV6_MINHOPCOUNT, &hops, sizeof hops)
                                : setsockopt(fd, IPPROTO_IP, IP_MINTTL, &hops, sizeof hops);
    if (rc < 0)
        rondo_log(RONDO_LOG_DEBUG, "descriptor %d: minimum of hops %d: %s", fd, hops, strerror(errno));
}

static void accepted(struct listener *listener, int fd)
{
    if (listener->state == LISTENER_DRAINING)
        set_hops_wanted(fd, ANY_HOPS);
    if (!listener->service->aborting && service_admit(listener->service))
        transport_open(listener->service, &(struct transport_start){
                                              .protocol = listener->address->protocol,
                                              .fd = fd,
                                              .family = AF_INET,
                                          });
    else
        close(fd);
}

/* ---- shortage ------------------------------------------------------------------------------------------- */

static void set_timer(struct listener *listener, unsigned delay_ms)
{
    rondo_call_later(listener->service->loop, &listener->timer, delay_ms, timer_expired);
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
        drain_queue(listener);
        return;
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

/* ---- accepting ------------------------------------------------------------------------------------------ */

static void accept_done(struct op *op, const struct completion *completion)
{
    struct listener *listener = rondo_container_of(op, struct listener, accept);
    if (completion->result >= 0) {
        recovering(listener);
        accepted(listener, completion->result);
    }
    if (completion->more)
        return;
    if (listener->state == LISTENER_DRAINING) {
        drain_queue(listener);
    } else if (completion->result >= 0 || is_passing(completion->result)) {
        accept_arm(listener);
    } else {
        listener->state = LISTENER_BACKING_OFF;
        back_off(listener, completion->result);
    }
}

/* ---- the end -------------------------------------------------------------------------------------------- */

static void listener_close(struct listener *listener)
{
    listener->state = LISTENER_CLOSED;
    rondo_timer_cancel(&listener->timer);
    close(listener->fd);
    listener->service->loop->users--;
}

void listener_drain(struct listener *listener)
{
    enum listener_state before = listener->state;
    listener->state = LISTENER_DRAINING;
    rondo_timer_cancel(&listener->timer);
    set_hops_wanted(listener->fd, ONLY_NEIGHBOURS);
    if (before == LISTENER_ACCEPTING)
        engine_cancel(listener->service->loop->engine, &listener->accept); /* accept_done drains the queue */
    else
        drain_queue(listener);
}

/* Asked first, since accept takes a descriptor before it looks: it may say EMFILE when nobody waits. */
static bool somebody_is_queued(const struct listener *listener)
{
    struct pollfd queue = { .fd = listener->fd, .events = POLLIN };
    return poll(&queue, 1, 0) > 0;
}

static void drain_queue(struct listener *listener)
{
    fcntl(listener->fd, F_SETFL, fcntl(listener->fd, F_GETFL) | O_NONBLOCK);
    while (somebody_is_queued(listener)) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
        int error = fd < 0 ? -errno : 0;
        if (fd >= 0) {
            accepted(listener, fd);
        } else if (!is_passing(error)) {
            back_off(listener, error); /* descriptors come back as connections end */
            return;
        }
    }
    listener_close(listener);
}

void listener_abort(struct listener *listener)
{
    if (listener->state == LISTENER_DRAINING && !listener->accept.in_kernel)
        listener_close(listener);
}
