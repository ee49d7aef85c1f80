/* The client service: a connection that comes back, those who wait for it, and its end in each state. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/client_service.h"
#include "net/connector.h"
#include "support/client.h"
#include "support/names.h"

TestSuite(client_service, .timeout = 30);

static struct world world;
static unsigned descriptors_before;
static unsigned port;
static int listener = -1;

static void open_world(void)
{
    world_open(&world, NULL);
    port = 0;
    listener = client_listen("127.0.0.1", &port, 8);
    descriptors_before = client_count_descriptors();
}

static void close_world(void)
{
    cr_assert(eq(uint, client_count_descriptors(), descriptors_before));
    cr_assert(list_is_empty(&world.service.stoppables));
    close(listener);
    world_close(&world);
}

#define IN_A_WORLD .init = open_world, .fini = close_world

/* ---- given ----------------------------------------------------------------------------------------------- */

/* Beside the letters of the record: PC prepare_connection, ST the stop call, EN stopped. */
static struct record r;
static rondo_client_service *service;
static rondo_call stop_call;
static unsigned stopped;
static int prepare_result;
static void (*on_prepare)(rondo_transport *t);

static void note(const char *letters)
{
    size_t size = strlen(r.calls);
    cr_assert_not(r.in_call, "%s came from inside a call", letters);
    snprintf(r.calls + size, sizeof r.calls - size, "%s%s", size == 0 ? "" : " ", letters);
}

static int prepare(rondo_client_service *s, rondo_transport *t)
{
    cr_assert_eq(s, service);
    cr_assert_eq(rondo_client_service_context(s), &r);
    cr_assert_null(rondo_client_service_transport(s), "it is not ready yet");
    note("PC");
    if (on_prepare != NULL)
        on_prepare(t);
    return prepare_result;
}

static void has_stopped(rondo_client_service *s)
{
    cr_assert_eq(s, service);
    note("EN");
    stopped++;
}

static void has_been_stopped(rondo_call *call)
{
    cr_assert_eq(call, &stop_call);
    note("ST");
}

static rondo_client_service_options options_for(const char *url)
{
    r.world = &world;
    return (rondo_client_service_options){
        .client = client_options(&r, url),
        .initial_delay_ms = 1,
        .max_delay_ms = 2,
        .jitter_ms = RONDO_NO_JITTER,
        .prepare_connection = prepare,
        .stopped = has_stopped,
    };
}

static void start_with(const rondo_client_service_options *options)
{
    r.in_call = true;
    cr_assert(eq(int, rondo_start_client_service(&world.loop, options, &service), 0));
    r.in_call = false;
}

static void start_at(const char *url)
{
    rondo_client_service_options options = options_for(url);
    start_with(&options);
}

static void start(void)
{
    start_at(client_url("127.0.0.1", port));
}

static void stop(void)
{
    r.in_call = true;
    rondo_stop_client_service(service, &stop_call, has_been_stopped);
    r.in_call = false;
}

static void run_until_stopped(void)
{
    client_turn_until(&r, &stopped, 1);
    client_turn_out(&r);
}

static int accept_one(void)
{
    int fd = accept(listener, NULL, NULL);
    cr_assert_geq(fd, 0);
    return fd;
}

/* The server goes and comes. Its port is kept, so that nobody else listens there. */
static void nobody_listens(void)
{
    close(listener);
    listener = client_refusing_port(&port);
}

static void listen_again(void)
{
    cr_assert_eq(listen(listener, 8), 0);
}

/* ---- waiters --------------------------------------------------------------------------------------------- */

struct waiter {
    rondo_client_waiter waiter;
    unsigned answered;
    rondo_transport *t;
    int error;
    void (*then)(struct waiter *w);
};

static unsigned answers;

static void answered(rondo_client_waiter *waiter, rondo_transport *t, int error)
{
    struct waiter *w = rondo_container_of(waiter, struct waiter, waiter);
    cr_assert_not(r.in_call);
    w->answered = ++answers;
    w->t = t;
    w->error = error;
    if (t != NULL)
        cr_assert_eq(t, rondo_client_service_transport(service));
    if (w->then != NULL)
        w->then(w);
}

static void wait_for_connection(struct waiter *w, unsigned failures)
{
    bool before = r.in_call;
    r.in_call = true;
    rondo_client_service_when_connected(service, &w->waiter, failures, answered);
    r.in_call = before;
}

/* ---- coming and going ------------------------------------------------------------------------------------ */

Test(client_service, it_connects_prepares_and_stops, IN_A_WORLD)
{
    start();
    cr_assert(gt(uint, world.loop.users, 0));
    client_turn_until(&r, &r.made, 1);
    client_turn(&r);
    cr_assert_not_null(rondo_client_service_transport(service));
    stop();
    cr_assert_null(rondo_client_service_transport(service));
    close(accept_one());
    run_until_stopped();
    cr_assert(eq(str, r.calls, "SC CM PC CL cl ST EN"));
}

Test(client_service, a_lost_connection_comes_back, IN_A_WORLD)
{
    start();
    for (unsigned i = 1; i <= 3; i++) {
        client_turn_until(&r, &r.made, i);
        close(accept_one());
        client_turn_until(&r, &r.lost, i);
    }
    /* On a machine that is busy its millisecond may be over, and the next attempt under way. */
    bool tries_again = strcmp(r.calls + strlen(r.calls) - 2, "SC") == 0;
    stop();
    run_until_stopped();
    cr_assert_str_eq(r.calls, tries_again
                                  ? "SC CM PC ER CL cl SC CM PC ER CL cl SC CM PC ER CL cl SC cf ST EN"
                                  : "SC CM PC ER CL cl SC CM PC ER CL cl SC CM PC ER CL cl ST EN");
}

Test(client_service, it_outlasts_a_server_that_is_away, IN_A_WORLD)
{
    nobody_listens();
    start();
    client_turn_until(&r, &r.failed, 3);
    cr_assert(eq(uint, rondo_client_service_failures(service), 3));
    listen_again();
    client_turn_until(&r, &r.made, 1);
    client_turn(&r);
    cr_assert(eq(uint, rondo_client_service_failures(service), 0));
    close(accept_one());
    nobody_listens();
    client_turn_until(&r, &r.failed, 5);
    listen_again();
    client_turn_until(&r, &r.made, 2);
    close(accept_one());
    stop();
    run_until_stopped();
    cr_assert(eq(uint, r.lost, 2));
}

Test(client_service, without_any_hook_it_does_the_same, IN_A_WORLD)
{
    static const rondo_protocol nothing = { .name = NULL };
    rondo_client_service_options options = { .client = { .url = client_url("127.0.0.1", port),
                                                         .protocol = &nothing },
                                             .initial_delay_ms = 1,
                                             .jitter_ms = RONDO_NO_JITTER };
    r.world = &world;
    start_with(&options);
    for (unsigned i = 0; i < 3; i++) {
        while (rondo_client_service_transport(service) == NULL)
            cr_assert_eq(loop_turn(&world.loop, 1000 * 1000), 0);
        close(accept_one());
        while (rondo_client_service_transport(service) != NULL)
            cr_assert_eq(loop_turn(&world.loop, 1000 * 1000), 0);
    }
    rondo_stop_client_service(service, NULL, NULL);
    client_turn_out(&r);
}

static void connect_by_hand(struct record *record)
{
    rondo_connector_connect(record->connector);
}

Test(client_service, when_to_connect_again_is_its_own_business, IN_A_WORLD)
{
    r.on_lost = connect_by_hand;
    start();
    client_turn_until(&r, &r.made, 1);
    close(accept_one());
    client_turn_until(&r, &r.made, 2);
    client_turn(&r);
    cr_assert(eq(str, r.calls, "SC CM PC ER CL cl SC CM PC"), "once each");
    close(accept_one());
    stop();
    run_until_stopped();
}

Test(client_service, options_that_make_no_sense_are_refused, IN_A_WORLD)
{
    rondo_client_service_options options = options_for("tcp://nowhere");
    cr_assert(eq(int, rondo_start_client_service(&world.loop, &options, &service), -EINVAL));
    options = options_for("tcp://127.0.0.1:1");
    options.delay_factor = 0.5;
    cr_assert(eq(int, rondo_start_client_service(&world.loop, &options, &service), -EINVAL));
    cr_assert(eq(uint, world.loop.users, 0));
    world.service.draining = true;
    options.delay_factor = 1;
    cr_assert(eq(int, rondo_start_client_service(&world.loop, &options, &service), -ESHUTDOWN));
}

/* ---- delays ---------------------------------------------------------------------------------------------- */

Test(client_service, delays_grow_to_their_limit)
{
    rondo_client_service s = { .options = { .initial_delay_ms = 1000,
                                            .delay_factor = 1.5,
                                            .max_delay_ms = 4000,
                                            .jitter_ms = RONDO_NO_JITTER } };
    static const uint64_t expected[] = { 1000, 1500, 2250, 3375, 4000, 4000 };
    for (unsigned i = 0; i < 6; i++) {
        s.failures = i + 1;
        cr_assert(eq(u64, client_service_delay_ms(&s), expected[i]));
    }
    s.failures = 4000000000u;
    cr_assert(eq(u64, client_service_delay_ms(&s), 4000));
    s.options.delay_factor = 1;
    cr_assert(eq(u64, client_service_delay_ms(&s), 1000));
}

Test(client_service, the_random_part_is_of_its_seed_and_covers_its_range)
{
    rondo_client_service one = { .options = { .initial_delay_ms = 100, .max_delay_ms = 100, .jitter_ms = 9 },
                                 .failures = 1,
                                 .random = 7 },
                         same = one, other = one;
    unsigned seen[10] = { 0 }, differing = 0;
    other.random = 8;
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t delay_ms = client_service_delay_ms(&one);
        cr_assert(eq(u64, delay_ms, client_service_delay_ms(&same)));
        differing += delay_ms != client_service_delay_ms(&other);
        cr_assert(delay_ms >= 100 && delay_ms <= 109);
        seen[delay_ms - 100]++;
    }
    for (unsigned i = 0; i < 10; i++)
        cr_assert(gt(uint, seen[i], 50));
    cr_assert(gt(uint, differing, 500));
}

Test(client_service, the_defaults_are_twisteds, IN_A_WORLD)
{
    rondo_client_service_options options = { .client = client_options(&r, client_url("127.0.0.1", port)) };
    r.world = &world;
    start_with(&options);
    cr_assert(eq(u64, service->options.initial_delay_ms, 1000));
    cr_assert(service->options.delay_factor == 1.5);
    cr_assert(eq(u64, service->options.max_delay_ms, 60000));
    cr_assert(eq(u64, service->options.jitter_ms, 1000));
    cr_assert(ne(u64, service->random, 0));
    stop();
    client_turn_out(&r);
}

Test(client_service, the_delay_before_an_attempt_is_waited_for, IN_A_WORLD)
{
    rondo_client_service_options options = options_for(client_url("127.0.0.1", port));
    options.initial_delay_ms = options.max_delay_ms = 1000000;
    start_with(&options);
    client_turn_until(&r, &r.made, 1);
    close(accept_one());
    client_turn_until(&r, &r.lost, 1);
    client_turn(&r);
    cr_assert(rondo_timer_is_running(&service->timer));
    cr_assert(ge(u64, service->timer._when_ms, rondo_time_ms(&world.loop) + 900000));
    stop();
    run_until_stopped();
    cr_assert(eq(str, r.calls, "SC CM PC ER CL cl ST EN"), "stopped while it waits, without an attempt more");
}

/* ---- preparing ------------------------------------------------------------------------------------------- */

static void write_password(rondo_transport *t)
{
    rondo_write_static(t, RONDO_BYTES("password"));
}

Test(client_service, what_prepares_a_connection_is_written_first, IN_A_WORLD)
{
    char text[16] = "";
    struct waiter w = { 0 };
    on_prepare = write_password;
    start();
    wait_for_connection(&w, 0);
    client_turn_until(&r, &w.answered, 1);
    rondo_write_static(w.t, RONDO_BYTES("!"));
    client_turn(&r);
    int peer = accept_one();
    cr_assert(eq(int, (int)recv(peer, text, 9, MSG_WAITALL), 9));
    cr_assert(eq(str, text, "password!"));
    close(peer);
    stop();
    run_until_stopped();
}

Test(client_service, a_connection_that_is_refused_counts_as_failed, IN_A_WORLD)
{
    struct waiter w = { 0 };
    prepare_result = -EPERM;
    start();
    wait_for_connection(&w, 2);
    client_turn_until(&r, &r.lost, 2);
    cr_assert(eq(uint, w.answered, 1));
    cr_assert_null(w.t);
    cr_assert(eq(int, w.error, -EPERM));
    cr_assert(eq(uint, rondo_client_service_failures(service), 2));
    close(accept_one());
    close(accept_one());
    stop();
    run_until_stopped();
}

static void abort_it(struct record *record, rondo_transport *t)
{
    (void)record;
    rondo_abort(t);
}

Test(client_service, a_connection_that_ends_as_it_is_made_counts_as_failed, IN_A_WORLD)
{
    struct waiter refused = { 0 }, aborted = { 0 };
    prepare_result = -EPERM;
    start();
    wait_for_connection(&refused, 1);
    wait_for_connection(&aborted, 2);
    client_turn_until(&r, &r.made, 1);
    close(accept_one());
    client_turn_until(&r, &refused.answered, 1);
    r.on_made = abort_it;
    client_turn_until(&r, &aborted.answered, 1);
    cr_assert_null(aborted.t);
    cr_assert(eq(int, aborted.error, -ECONNABORTED), "that the last one was refused is forgotten");
    cr_assert(eq(str, r.calls, "SC CM PC CL cl SC CM CL cl"), "and it is not prepared");
    stop();
    run_until_stopped();
}

Test(client_service, a_connection_that_is_closed_as_it_is_prepared_counts_as_failed, IN_A_WORLD)
{
    struct waiter refused = { 0 }, closed = { 0 };
    prepare_result = -EPERM;
    start();
    wait_for_connection(&refused, 1);
    wait_for_connection(&closed, 2);
    client_turn_until(&r, &r.made, 1);
    close(accept_one());
    client_turn_until(&r, &refused.answered, 1);
    cr_assert(eq(int, refused.error, -EPERM));

    prepare_result = 0;
    on_prepare = rondo_close;
    client_turn_until(&r, &r.made, 2);
    close(accept_one());
    client_turn_until(&r, &closed.answered, 1);
    cr_assert_null(closed.t);
    cr_assert(eq(int, closed.error, -ECONNABORTED));
    cr_assert(eq(uint, rondo_client_service_failures(service), 2));
    stop();
    run_until_stopped();
}

/* ---- those who wait -------------------------------------------------------------------------------------- */

Test(client_service, all_who_wait_are_answered_in_order, IN_A_WORLD)
{
    struct waiter before = { 0 }, too = { 0 }, after = { 0 };
    start();
    wait_for_connection(&before, 0);
    wait_for_connection(&too, 5);
    client_turn_until(&r, &too.answered, 1);
    wait_for_connection(&after, 1);
    cr_assert(eq(uint, after.answered, 0));
    client_turn_until(&r, &after.answered, 1);
    cr_assert(eq(uint, before.answered, 1));
    cr_assert(eq(uint, too.answered, 2));
    cr_assert(eq(uint, after.answered, 3));
    cr_assert_not_null(before.t);
    cr_assert_eq(before.t, too.t);
    cr_assert_eq(before.t, after.t);
    close(accept_one());
    stop();
    run_until_stopped();
}

Test(client_service, who_waits_gives_up_after_so_many_failures, IN_A_WORLD)
{
    struct waiter twice = { 0 }, once = { 0 }, patient = { 0 };
    nobody_listens();
    start();
    wait_for_connection(&twice, 2);
    wait_for_connection(&once, 1);
    wait_for_connection(&patient, 0);
    client_turn_until(&r, &r.failed, 1);
    cr_assert(eq(uint, once.answered, 1));
    cr_assert(eq(int, once.error, -ECONNREFUSED));
    cr_assert(eq(uint, twice.answered, 0));
    client_turn_until(&r, &r.failed, 2);
    cr_assert(eq(uint, twice.answered, 2));
    cr_assert(eq(int, twice.error, -ECONNREFUSED));
    client_turn_until(&r, &r.failed, 4);
    cr_assert(eq(uint, patient.answered, 0));
    listen_again();
    client_turn_until(&r, &patient.answered, 1);
    cr_assert_not_null(patient.t);
    close(accept_one());
    stop();
    run_until_stopped();
}

Test(client_service, who_asks_in_the_last_moment_is_told_of_the_end, IN_A_WORLD)
{
    struct waiter w = { 0 };
    start();
    client_turn_until(&r, &r.made, 1);
    client_turn(&r);
    close(accept_one());
    wait_for_connection(&w, 0);
    stop(); /* which is done before those who wait are looked at */
    run_until_stopped();
    cr_assert(eq(uint, w.answered, 1));
    cr_assert(eq(int, w.error, -ECANCELED));
}

static struct waiter cancelled_one;

static void cancel_the_other(struct waiter *w)
{
    (void)w;
    rondo_client_service_cancel_waiter(&cancelled_one.waiter);
}

Test(client_service, who_waits_can_be_taken_back_even_in_the_last_moment, IN_A_WORLD)
{
    struct waiter early = { 0 }, first = { .then = cancel_the_other }, last = { 0 };
    start();
    wait_for_connection(&early, 0);
    wait_for_connection(&first, 0);
    wait_for_connection(&cancelled_one, 0);
    wait_for_connection(&last, 0);
    rondo_client_service_cancel_waiter(&early.waiter);
    rondo_client_service_cancel_waiter(&early.waiter);
    client_turn_until(&r, &last.answered, 1);
    cr_assert(eq(uint, early.answered, 0));
    cr_assert(eq(uint, cancelled_one.answered, 0));
    close(accept_one());
    stop();
    run_until_stopped();
}

static void close_the_connection(struct waiter *w)
{
    rondo_close(w->t);
}

Test(client_service, who_waits_is_not_given_a_connection_that_closes, IN_A_WORLD)
{
    struct waiter first = { .then = close_the_connection }, second = { 0 };
    start();
    wait_for_connection(&first, 0);
    wait_for_connection(&second, 0);
    client_turn_until(&r, &first.answered, 1);
    cr_assert(eq(uint, second.answered, 0));
    close(accept_one());
    client_turn_until(&r, &second.answered, 1);
    cr_assert(eq(uint, r.made, 2), "but the next one");
    cr_assert_not_null(second.t);
    close(accept_one());
    stop();
    run_until_stopped();
}

static void stop_by_waiter(struct waiter *w)
{
    (void)w;
    stop();
}

static void stop_once_more(struct waiter *w)
{
    (void)w;
    rondo_stop_client_service(service, NULL, NULL);
}

Test(client_service, who_waits_may_stop_it, IN_A_WORLD)
{
    struct waiter first = { .then = stop_by_waiter }, second = { .then = stop_once_more };
    start();
    wait_for_connection(&first, 0);
    wait_for_connection(&second, 0);
    client_turn_until(&r, &r.made, 1);
    close(accept_one());
    run_until_stopped();
    cr_assert_not_null(first.t);
    cr_assert_null(second.t);
    cr_assert(eq(int, second.error, -ECANCELED));
}

/* ---- stop ------------------------------------------------------------------------------------------------ */

Test(client_service, it_can_be_stopped_before_it_begins, IN_A_WORLD)
{
    struct waiter w = { 0 };
    start();
    wait_for_connection(&w, 0);
    stop();
    rondo_stop_client_service(service, NULL, NULL);
    run_until_stopped();
    cr_assert(eq(str, r.calls, "cf ST EN"));
    cr_assert(eq(int, r.error, -ECANCELED));
    cr_assert(eq(int, w.error, -ECANCELED));
}

Test(client_service, it_can_be_stopped_while_it_connects, IN_A_WORLD)
{
    struct black_hole hole;
    unsigned hole_port = 0;
    client_black_hole(&hole, "127.0.0.1", &hole_port);
    start_at(client_url("127.0.0.1", hole_port));
    client_turn(&r);
    stop();
    run_until_stopped();
    cr_assert(eq(str, r.calls, "SC cf ST EN"));
    client_close_black_hole(&hole);
}

static void stop_in_hook(struct record *record)
{
    (void)record;
    stop();
}

static void stop_in_made(struct record *record, rondo_transport *t)
{
    (void)record;
    (void)t;
    stop();
}

static void stop_in_prepare(rondo_transport *t)
{
    (void)t;
    stop();
}

Test(client_service, it_can_be_stopped_in_started_connecting, IN_A_WORLD)
{
    r.on_started = stop_in_hook;
    start();
    run_until_stopped();
    cr_assert(eq(str, r.calls, "SC cf ST EN"));
}

Test(client_service, it_can_be_stopped_in_connection_failed, IN_A_WORLD)
{
    nobody_listens();
    r.on_failed = stop_in_hook;
    start();
    run_until_stopped();
    cr_assert(eq(str, r.calls, "SC cf ST EN"));
    listen_again();
}

Test(client_service, it_can_be_stopped_in_connection_made, IN_A_WORLD)
{
    r.on_made = stop_in_made;
    start();
    client_turn_until(&r, &r.made, 1);
    close(accept_one());
    run_until_stopped();
    cr_assert(eq(str, r.calls, "SC CM CL cl ST EN"));
}

Test(client_service, it_can_be_stopped_in_prepare_connection, IN_A_WORLD)
{
    on_prepare = stop_in_prepare;
    start();
    client_turn_until(&r, &r.made, 1);
    close(accept_one());
    run_until_stopped();
    cr_assert(eq(str, r.calls, "SC CM PC CL cl ST EN"));
}

Test(client_service, it_can_be_stopped_in_connection_lost, IN_A_WORLD)
{
    r.on_lost = stop_in_hook;
    start();
    client_turn_until(&r, &r.made, 1);
    close(accept_one());
    run_until_stopped();
    cr_assert(eq(str, r.calls, "SC CM PC ER CL cl ST EN"));
}

/* ---- drain ----------------------------------------------------------------------------------------------- */

static void drain(void)
{
    service_hooks.drain(&world.loop);
}

Test(client_service, a_drain_stops_it_while_it_starts, IN_A_WORLD)
{
    struct waiter w = { 0 };
    start();
    wait_for_connection(&w, 0);
    drain();
    cr_assert(eq(str, r.calls, "cf EN"));
    cr_assert(eq(int, w.error, -ECANCELED));
    cr_assert(eq(uint, world.loop.users, 0));
}

Test(client_service, a_drain_stops_it_while_it_connects, IN_A_WORLD)
{
    struct black_hole hole;
    unsigned hole_port = 0;
    client_black_hole(&hole, "127.0.0.1", &hole_port);
    start_at(client_url("127.0.0.1", hole_port));
    client_turn(&r);
    drain();
    cr_assert(eq(str, r.calls, "SC cf EN"));
    client_turn_out(&r);
    client_close_black_hole(&hole);
}

Test(client_service, a_drain_stops_it_while_it_waits, IN_A_WORLD)
{
    rondo_client_service_options options = options_for(client_url("127.0.0.1", port));
    options.initial_delay_ms = options.max_delay_ms = 1000000;
    nobody_listens();
    options.client.url = client_url("127.0.0.1", port);
    start_with(&options);
    client_turn_until(&r, &r.failed, 1);
    drain();
    cr_assert(eq(str, r.calls, "SC cf EN"));
    cr_assert(eq(uint, world.loop.users, 0));
    listen_again();
}

Test(client_service, a_drain_closes_its_connection_for_good, IN_A_WORLD)
{
    start();
    client_turn_until(&r, &r.made, 1);
    client_turn(&r);
    int peer = accept_one();
    drain();
    cr_assert(eq(uint, stopped, 0));
    client_turn_until(&r, &stopped, 1);
    cr_assert(eq(str, r.calls, "SC CM PC CL cl EN"));
    close(peer);
    client_turn_out(&r);
}

Test(client_service, a_drain_meets_one_that_is_stopping, IN_A_WORLD)
{
    start();
    stop();
    drain();
    cr_assert(eq(str, r.calls, "cf ST EN"));
    cr_assert(eq(uint, world.loop.users, 0));
}

Test(client_service, a_drain_meets_one_that_was_stopped_while_it_waited, IN_A_WORLD)
{
    nobody_listens();
    start();
    client_turn_until(&r, &r.failed, 1);
    stop();
    drain();
    cr_assert(eq(str, r.calls, "SC cf ST EN"));
    cr_assert(eq(uint, world.loop.users, 0));
    listen_again();
}
