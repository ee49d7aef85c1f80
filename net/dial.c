/* A dial's life, and what the kernel may still owe us.
 *
 *   from                        event                                               to
 *   NEW                         dial_begin; there is a local URL                    RESOLVING_LOCAL
 *   NEW, RESOLVING_LOCAL        dial_begin; the local addresses are known           RESOLVING
 *   RESOLVING                   the addresses are known                             CONNECTING
 *   RESOLVING_LOCAL, RESOLVING  look-up failed; deadline                            ENDING, done(error)
 *   CONNECTING                  an attempt succeeds                                 ENDING, done(socket)
 *   CONNECTING                  the last attempt fails; deadline                    ENDING, done(error)
 *   any but ENDING              dial_cancel                                         ENDING
 *   ENDING                      nothing in the kernel                               freed
 *
 *   in the kernel:   connect
 *   CONNECTING       1 or more
 *   ENDING           0 or more, being cancelled; one that succeeds nevertheless is closed
 *
 * Addresses written as such are known at once, so a state may pass within dial_begin.
 *
 * Attempts are made in getaddrinfo's order, but with the families taking turns, beginning with its first. The next
 * begins when one has failed, or when the delay since the last began is over. */
#include "net/dial.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "core/memory.h"

static void local_answered(struct lookup *lookup, int error);
static void resolve(struct dial *dial);
static void answered(struct lookup *lookup, int error);
static void connect_to_addresses(struct dial *dial);
static void go_on(struct dial *dial);
static void connect_done(struct op *op, const struct completion *completion);
static void deadline_expired(rondo_timer *timer);
static void free_if_over(struct dial *dial);

/* ---- the outcome ---------------------------------------------------------------------------------------- */

static struct engine *engine_of(const struct dial *dial)
{
    return dial->loop->engine;
}

static void close_socket(struct attempt *attempt)
{
    if (attempt->fd >= 0)
        engine_close_now(engine_of(attempt->dial), attempt->fd);
    attempt->fd = -1;
}

/* Whatever is under way is no longer wanted. */
static void end(struct dial *dial)
{
    assert(dial->state != DIAL_ENDING);
    dial->state = DIAL_ENDING;
    resolver_cancel(&dial->lookup);
    rondo_timer_cancel(&dial->delay);
    rondo_timer_cancel(&dial->deadline);
    for (unsigned i = 0; i < dial->started; i++)
        engine_cancel(engine_of(dial), &dial->attempts[i].connect);
}

static void tell(struct dial *dial, int result, int family, const char *why)
{
    end(dial);
    dial->done(dial, result, family, why);
    free_if_over(dial);
}

struct text {
    char *bytes;
    size_t size, max;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text->bytes + text->size, text->max - text->size, format, arguments);
    va_end(arguments);
    text->size += size > 0 ? (size_t)size : 0;
    if (text->size >= text->max)
        text->size = text->max - 1; /* cut */
}

static const char *family_name(int family)
{
    return family == AF_INET6 ? "IPv6" : "IPv4";
}

static void add_address(struct text *text, const struct url_address *address)
{
    char url[URL_TEXT_BYTES];
    url_format_address(address, url);
    add(text, "%s: ", strstr(url, "://") + strlen("://"));
}

/* What happened at each address that was tried. */
static void add_attempts(struct text *text, const struct dial *dial)
{
    for (unsigned i = 0; i < dial->started; i++) {
        const struct attempt *attempt = &dial->attempts[i];
        add(text, i == 0 ? " " : "; ");
        add_address(text, attempt->address);
        if (attempt->skipped)
            add(text, "there is no local %s address", family_name(attempt->address->any.sa_family));
        else if (attempt->error == 0)
            add(text, "no answer");
        else if (attempt->at_bind)
            add(text, "bind: %s", strerror(-attempt->error));
        else
            add(text, "%s", strerror(-attempt->error));
    }
}

static bool is_short_of_descriptors(int error)
{
    return error == -EMFILE || error == -ENFILE;
}

/* The attempts' common error, or the first one's; those that were skipped count only if all were. */
static int common_error(const struct dial *dial)
{
    for (unsigned i = 0; i < dial->count; i++) {
        if (!dial->attempts[i].skipped)
            return dial->attempts[i].error;
    }
    return -EAFNOSUPPORT;
}

static void fail(struct dial *dial)
{
    char why[DIAL_WHY_BYTES];
    struct text text = { why, 0, sizeof why };
    int error = common_error(dial);
    add(&text, "can't connect to %s:", dial->target->text);
    add_attempts(&text, dial);
    if (is_short_of_descriptors(error))
        add(&text, ": raise the limit of descriptors (ulimit -n)");
    tell(dial, error, AF_UNSPEC, why);
}

static void fail_look_up(struct dial *dial, int error)
{
    char why[DIAL_WHY_BYTES];
    struct text text = { why, 0, sizeof why };
    add(&text, "can't connect to %s: %s", dial->target->text, dial->lookup.why);
    tell(dial, error, AF_UNSPEC, why);
}

static void deadline_expired(rondo_timer *timer)
{
    struct dial *dial = rondo_container_of(timer, struct dial, deadline);
    char why[DIAL_WHY_BYTES];
    struct text text = { why, 0, sizeof why };
    add(&text, "can't connect to %s: not done after %" PRIu64 " ms:", dial->target->text,
        dial->target->timeout_ms);
    if (dial->state == DIAL_CONNECTING)
        add_attempts(&text, dial);
    else
        add(&text, " no name server has answered");
    tell(dial, -ETIMEDOUT, AF_UNSPEC, why);
}

/* ---- look-up -------------------------------------------------------------------------------------------- */

struct dial *dial_new(rondo_loop *loop, const struct dial_target *target)
{
    struct dial *dial = memory_new(sizeof *dial);
    if (dial == NULL)
        return NULL;
    dial->loop = loop;
    dial->target = target;
    loop->users++;
    return dial;
}

void dial_begin(struct dial *dial)
{
    const struct dial_target *target = dial->target;
    assert(dial->state == DIAL_NEW);
    rondo_call_later(dial->loop, &dial->deadline, target->timeout_ms, deadline_expired);
    if (!target->has_local) {
        resolve(dial);
        return;
    }
    dial->state = DIAL_RESOLVING_LOCAL;
    int error = resolver_ask(&dial->lookup, dial->loop, &target->local, local_answered);
    if (error != -EINPROGRESS)
        local_answered(&dial->lookup, error);
}

static void local_answered(struct lookup *lookup, int error)
{
    struct dial *dial = rondo_container_of(lookup, struct dial, lookup);
    if (error < 0) {
        fail_look_up(dial, error);
        return;
    }
    dial->local = lookup->addresses;
    resolve(dial);
}

static void resolve(struct dial *dial)
{
    dial->state = DIAL_RESOLVING;
    int error = resolver_ask(&dial->lookup, dial->loop, &dial->target->url, answered);
    if (error != -EINPROGRESS)
        answered(&dial->lookup, error);
}

static void answered(struct lookup *lookup, int error)
{
    struct dial *dial = rondo_container_of(lookup, struct dial, lookup);
    if (error < 0)
        fail_look_up(dial, error);
    else
        connect_to_addresses(dial);
}

/* The next of the addresses, from *at on, that is of this family, or is not. */
static const struct url_address *next_of(const struct url_addresses *addresses, unsigned *at, int family,
                                         bool is_of)
{
    while (*at < addresses->count) {
        const struct url_address *address = &addresses->at[(*at)++];
        if ((address->any.sa_family == family) == is_of)
            return address;
    }
    return NULL;
}

static void add_attempt(struct dial *dial, const struct url_address *address)
{
    if (address != NULL)
        dial->attempts[dial->count++] = (struct attempt){ .dial = dial, .address = address, .fd = -1 };
}

static void connect_to_addresses(struct dial *dial)
{
    const struct url_addresses *addresses = &dial->lookup.addresses;
    int first_family = addresses->at[0].any.sa_family;
    unsigned of_first = 0, of_other = 0;
    while (dial->count < addresses->count) {
        add_attempt(dial, next_of(addresses, &of_first, first_family, true));
        add_attempt(dial, next_of(addresses, &of_other, first_family, false));
    }
    dial->state = DIAL_CONNECTING;
    go_on(dial);
}

/* ---- attempts ------------------------------------------------------------------------------------------- */

static const struct url_address *local_address_for(const struct attempt *attempt)
{
    const struct dial *dial = attempt->dial;
    return next_of(&dial->local, &(unsigned){ 0 }, attempt->address->any.sa_family, true);
}

/* A socket, ready to connect. Returns 0 or a negative errno. */
static int open_socket(struct attempt *attempt)
{
    struct engine *engine = engine_of(attempt->dial);
    const struct url_address *local = local_address_for(attempt);
    if (local == NULL && attempt->dial->local.count > 0) {
        attempt->skipped = true;
        return -EAFNOSUPPORT;
    }
    attempt->fd = engine->sockets->open(engine, attempt->address->any.sa_family);
    if (attempt->fd < 0)
        return attempt->fd;
    int rc = local == NULL ? 0 : engine->sockets->bind(engine, attempt->fd, &local->any, local->size);
    attempt->at_bind = rc < 0;
    return rc;
}

/* Returns false when it failed at once. */
static bool connect_arm(struct attempt *attempt)
{
    struct dial *dial = attempt->dial;
    attempt->error = open_socket(attempt);
    if (attempt->error < 0) {
        close_socket(attempt);
        return false;
    }
    attempt->connect.done = connect_done;
    engine_connect(engine_of(dial), &attempt->connect, attempt->fd, &attempt->address->any,
                   attempt->address->size);
    dial->under_way++;
    return true;
}

static void delay_expired(rondo_timer *timer)
{
    go_on(rondo_container_of(timer, struct dial, delay));
}

/* Begin the next attempt that can be begun; when there is none, and none is under way, all have failed. */
static void go_on(struct dial *dial)
{
    rondo_timer_cancel(&dial->delay);
    bool is_begun = false;
    while (dial->started < dial->count && !is_begun)
        is_begun = connect_arm(&dial->attempts[dial->started++]);
    if (dial->started < dial->count)
        rondo_call_later(dial->loop, &dial->delay, dial->target->happy_eyeballs_delay_ms, delay_expired);
    else if (dial->under_way == 0)
        fail(dial);
}

/* Who connects to a port of this machine where nobody listens, from the range that the kernel takes ports from, may
 * be given that very port, and TCP then connects the socket with itself ("simultaneous open"). */
static bool is_connected_to_itself(const struct attempt *attempt)
{
    struct engine *engine = engine_of(attempt->dial);
    if (attempt->address->any.sa_family == AF_UNIX)
        return false;
    struct sockaddr_storage own = { 0 }, peer = { 0 };
    socklen_t own_size, peer_size;
    return engine->sockets->name(engine, attempt->fd, false, &own, &own_size) == 0 &&
           engine->sockets->name(engine, attempt->fd, true, &peer, &peer_size) == 0 &&
           own_size == peer_size && memcmp(&own, &peer, own_size) == 0;
}

static void succeed(struct attempt *attempt)
{
    int fd = attempt->fd;
    attempt->fd = -1;
    tell(attempt->dial, fd, attempt->address->any.sa_family, NULL);
}

static void connect_done(struct op *op, const struct completion *completion)
{
    struct attempt *attempt = rondo_container_of(op, struct attempt, connect);
    struct dial *dial = attempt->dial;
    dial->under_way--;
    if (dial->state == DIAL_ENDING) {
        close_socket(attempt); /* also one that has just succeeded */
        free_if_over(dial);
        return;
    }
    attempt->error = completion->result;
    if (attempt->error == 0 && is_connected_to_itself(attempt))
        attempt->error = -ECONNREFUSED;
    if (attempt->error == 0) {
        succeed(attempt);
        return;
    }
    close_socket(attempt);
    go_on(dial);
}

/* ---- the end -------------------------------------------------------------------------------------------- */

void dial_cancel(struct dial *dial)
{
    end(dial);
    free_if_over(dial);
}

static void free_if_over(struct dial *dial)
{
    assert(dial->state == DIAL_ENDING);
    if (dial->under_way > 0)
        return;
    assert(dial->lookup.job == NULL && !rondo_timer_is_running(&dial->delay) &&
           !rondo_timer_is_running(&dial->deadline));
    dial->loop->users--;
    memory_free(dial);
}
