#include "run.h"

#include "process.h"
#include "schedule.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    RETRY_NS = 1000000,  /* a full backlog has room again: nobody tells */
    FILLING_SECONDS = 5, /* for hostile peers, whose server may read for ever */
    TICK_NS = 200000000, /* the longest sleep: stalls are noticed, and progress shown */
};

/* The user_data of the poll for --wait-for-stdin. */
#define START (UINT64_C(1) << 62)

static uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND_NS + now.tv_nsec;
}

void run_connected(struct run *run, struct connection *c)
{
    run->progress_ns = run->now_ns;
    if (!schedule_opens_connections(run))
        queue_push(&run->ready, c);
}

void run_answered(struct run *run, struct connection *c, uint64_t due_ns)
{
    run->progress_ns = run->now_ns;
    run->outstanding--;
    run->results.answered += run->phase == MEASURING;
    if (schedule_counts(run, due_ns)) {
        run->results.requests++;
        histogram_add(&run->results.latency, run->now_ns - due_ns);
    }
    if (run->options->mode->reconnects)
        connection_close(run, c);
    else if (!run->touching && c->issued - c->answered == run->options->depth - 1)
        queue_push(&run->ready, c); /* it was full until now, so it isn't in the list yet */
}

void run_closed(struct run *run, struct connection *c)
{
    run->open--;
    if (c->state == IS_RETIRED)
        run->retired++;
    else if (run->options->mode->reconnects)
        queue_push(&run->ready, c);
}

static int64_t server_cpu_ns(const struct run *run)
{
    return run->options->server ? process_cpu_ns(run->options->server) : -ENOENT;
}

static int64_t server_resident_bytes(const struct run *run)
{
    return run->options->server ? process_resident_bytes(run->options->server) : -ENOENT;
}

static int64_t server_peak_bytes(const struct run *run)
{
    int64_t peak = run->peak_known ? process_peak_bytes(run->options->server) : -ENOENT;
    bool is_more = peak < 0 || peak > run->results.resident_after;
    return is_more ? peak : run->results.resident_after; /* that was counted page by page, the peak was not */
}

static void enter_phase(struct run *run, enum phase phase, double seconds)
{
    run->phase = phase;
    run->deadline_ns = run->now_ns + (uint64_t)(seconds * SECOND_NS);
    run->progress_ns = run->now_ns;
}

static void begin_window(struct run *run)
{
    struct results *results = &run->results;
    results->requests = results->answered = results->bytes_sent = results->bytes_received = 0;
    results->latency = (struct histogram){ 0 };
    results->greedy_bytes_sent = run->greedy.bytes_sent;
    results->server_cpu_ns = server_cpu_ns(run);
    results->generator_cpu_ns = process_cpu_ns(getpid());
    run->window_began_ns = run->now_ns = clock_ns();
    enter_phase(run, MEASURING, run->options->seconds);
    run->window_ends_ns = run->deadline_ns;
}

static void begin_traffic(struct run *run)
{
    if (run->touching || run->options->warmup == 0)
        begin_window(run); /* which takes some time: the first request is due after that */
    else
        enter_phase(run, WARMING_UP, run->options->warmup);
    schedule_begin(run);
}

/* Traffic begins at once, or with --wait-for-stdin when there is something to read. */
static void get_ready(struct run *run)
{
    bool waits = run->options->wait_for_stdin && !(run->touching && run->options->active > 0);
    enter_phase(run, READY, 0);
    run->may_start = !waits;
    if (!waits)
        return;
    io_uring_prep_poll_add(ring_request(&run->ring, START), STDIN_FILENO, POLLIN);
    fputs("ready\n", stderr);
}

/* Some of the idle connections, spread evenly, play ping-pong from now on. */
static void activate(struct run *run)
{
    unsigned active = run->options->active;
    for (unsigned i = 0; i < active; i++)
        queue_push(&run->ready, &run->connections[(uint64_t)i * run->options->connections / active]);
    run->touching = false;
    get_ready(run);
}

static void end_touching(struct run *run)
{
    run->results.touched = run->results.requests;
    if (run->options->active == 0) {
        enter_phase(run, HOLDING, run->options->seconds);
        return;
    }
    run->results.resident_after = server_resident_bytes(run);
    activate(run);
}

static void end_window(struct run *run)
{
    struct results *results = &run->results;
    int64_t cpu_ns = server_cpu_ns(run);
    bool known = cpu_ns >= 0 && results->server_cpu_ns >= 0;
    results->server_cpu_ns = known ? cpu_ns - results->server_cpu_ns : -ENOENT;
    results->generator_cpu_ns = process_cpu_ns(getpid()) - results->generator_cpu_ns;
    results->greedy_bytes_sent = run->greedy.bytes_sent - results->greedy_bytes_sent;
    results->greedy_open = run->greedy.open;
    results->seconds = (clock_ns() - run->window_began_ns) / (double)SECOND_NS;
    if (run->touching)
        end_touching(run);
    else
        enter_phase(run, DRAINING, 0);
}

static bool window_is_over(const struct run *run)
{
    uint64_t limit = schedule_limit(run);
    if (schedule_has_nobody(run))
        return true;
    if (limit == 0)
        return run->now_ns >= run->deadline_ns;
    return run->outstanding == 0 && run->issued >= limit;
}

/* Nothing more is sent, and nothing has to be answered. */
static bool is_quiet(const struct run *run)
{
    return run->outstanding == 0 && (!schedule_goes_on(run) || schedule_has_nobody(run));
}

static void open_connections(struct run *run)
{
    while (run->opened < run->options->connections && run->connecting < CONNECTING_MAX)
        connection_open(run, &run->connections[run->opened]);
}

static void part_from_greedy(struct run *run)
{
    greedy_leave(run);
    enter_phase(run, PARTING, 0);
}

static void close_connections(struct run *run)
{
    run->results.resident_peak = server_peak_bytes(run);
    for (unsigned i = 0; i < run->options->connections; i++)
        if (run->connections[i].state == IS_OPEN)
            connection_close(run, &run->connections[i]);
    enter_phase(run, CLOSING, 0);
}

static void end_traffic(struct run *run)
{
    if (run->options->active == 0)
        run->results.resident_after = server_resident_bytes(run);
    if (run->options->greedy > 0)
        part_from_greedy(run);
    else
        close_connections(run);
}

static void advance_phase(struct run *run)
{
    switch (run->phase) {
    case OPENING:
        open_connections(run);
        greedy_open(run);
        if (run->opened == run->options->connections && run->connecting == 0 && greedy_are_open(run))
            enter_phase(run, FILLING, FILLING_SECONDS);
        break;
    case FILLING:
        if (greedy_are_stuck(run) || run->now_ns >= run->deadline_ns)
            get_ready(run);
        break;
    case READY:
        if (run->may_start)
            begin_traffic(run);
        break;
    case WARMING_UP:
        if (run->now_ns >= run->deadline_ns)
            begin_window(run);
        break;
    case MEASURING:
        if (window_is_over(run))
            end_window(run);
        break;
    case HOLDING:
        if (run->now_ns >= run->deadline_ns || run->open == 0)
            enter_phase(run, DRAINING, 0);
        break;
    case DRAINING:
        if (is_quiet(run)) {
            run->results.unsent = schedule_unsent(run);
            end_traffic(run);
        }
        break;
    case PARTING:
        if (run->greedy.open == 0) {
            enter_phase(run, SETTLING, 0);
            schedule_begin(run);
        }
        break;
    case SETTLING:
        if (is_quiet(run)) {
            run->results.resident_settled = server_resident_bytes(run);
            close_connections(run);
        }
        break;
    case CLOSING:
        if (run->open == 0)
            enter_phase(run, DONE, 0);
        break;
    case DONE:
        break;
    }
}

/* Somebody is expected to act, and nobody does. */
static bool stalled(const struct run *run)
{
    bool waiting = run->outstanding > 0 || run->connecting > 0 || run->greedy.connecting > 0 ||
                   run->phase == PARTING || run->phase == CLOSING;
    return waiting && run->now_ns - run->progress_ns > STALL_SECONDS * SECOND_NS;
}

static void give_up(struct run *run)
{
    for (unsigned i = 0; i < run->options->connections; i++) {
        const struct connection *c = &run->connections[i];
        if (c->state == IS_CONNECTING || c->state == IS_CLOSING || c->issued > c->answered)
            failures_add(&run->results.failures, FAILURE_TIMEOUT, i, 0);
    }
    if (run->greedy.connecting > 0 || run->phase == PARTING)
        failures_add(&run->results.failures, FAILURE_TIMEOUT, run->options->connections, 0);
    if (run->phase == MEASURING)
        end_window(run);
    run->phase = DONE;
}

static void show_progress(const struct run *run, uint64_t *shown_ns)
{
    if (run->now_ns - *shown_ns < SECOND_NS)
        return;
    *shown_ns = run->now_ns;
    fprintf(stderr, "\r%u connections, %llu requests, %llu failures ", run->open,
            (unsigned long long)(run->issued - run->outstanding),
            (unsigned long long)failures_total(&run->results.failures));
}

/* A schedule is kept by polling: a sleeper is woken tens of microseconds late, and it is the server that
 * pays for waking it. */
static uint64_t sleep_ns(const struct run *run)
{
    if (schedule_is_paced(run) && schedule_goes_on(run))
        return 0;
    if (run->waiting.first || run->phase == FILLING || (run->phase == OPENING && !greedy_are_open(run)))
        return RETRY_NS;
    bool timed = run->phase == WARMING_UP || run->phase == HOLDING ||
                 (run->phase == MEASURING && schedule_limit(run) == 0);
    if (!timed || run->deadline_ns > run->now_ns + TICK_NS)
        return TICK_NS;
    return run->deadline_ns > run->now_ns ? run->deadline_ns - run->now_ns : 0;
}

static void complete_all(struct run *run)
{
    struct io_uring_cqe *cqe;
    unsigned head;
    io_uring_for_each_cqe(&run->ring.uring, head, cqe)
    {
        if (cqe->user_data & GREEDY)
            greedy_complete(run, cqe);
        else if (cqe->user_data == START)
            run->may_start = true;
        else
            connection_complete(run, cqe);
        io_uring_cq_advance(&run->ring.uring, 1);
    }
}

static int loop(struct run *run)
{
    bool terminal = isatty(STDERR_FILENO);
    uint64_t shown_ns = run->now_ns;
    while (run->phase != DONE) {
        enum phase before = run->phase;
        connection_retry_waiting(run);
        advance_phase(run);
        schedule_issue(run);
        bool goes_on = run->phase != before; /* maybe it is over, too, before anything happens */
        int error = -ring_enter(&run->ring, goes_on ? 0 : sleep_ns(run));
        if (error) {
            fprintf(stderr, "error: wait: %s\n", strerror(error));
            return -1;
        }
        run->now_ns = clock_ns();
        complete_all(run);
        if (stalled(run))
            give_up(run);
        if (terminal)
            show_progress(run, &shown_ns);
    }
    if (terminal)
        fputs("\r\033[K", stderr);
    return 0;
}

static int make_connections(struct run *run)
{
    unsigned count = run->options->connections, depth = run->options->depth;
    run->connections = calloc(count, sizeof *run->connections);
    uint64_t *due_ns = calloc((size_t)count * depth, sizeof *due_ns);
    if (!run->connections || !due_ns) {
        free(run->connections);
        free(due_ns);
        fputs("error: out of memory\n", stderr);
        return -1;
    }
    for (unsigned i = 0; i < count; i++) {
        run->connections[i].due_ns = due_ns + (size_t)i * depth;
        if (schedule_opens_connections(run))
            queue_push(&run->ready, &run->connections[i]);
    }
    return 0;
}

static void free_connections(struct run *run)
{
    free(run->connections[0].due_ns);
    free(run->connections);
}

int run_execute(struct run *run, const struct options *options)
{
    run->options = options;
    run->touching = options->mode->holds;
    int result = -1;
    if (payload_init(&run->payload, options->lines, options->size)) {
        fputs("error: out of memory\n", stderr);
        return -1;
    }
    if (make_connections(run))
        goto no_connections;
    if (greedy_init(&run->greedy, options->greedy)) {
        fputs("error: out of memory\n", stderr);
        goto no_greedy;
    }
    if (ring_init(&run->ring, options->connections, options->size * options->depth))
        goto no_ring;

    run->now_ns = clock_ns();
    run->results.resident_before = run->results.resident_after = server_resident_bytes(run);
    run->results.server_cpu_ns = run->results.generator_cpu_ns = -ENOENT;
    run->results.resident_peak = run->results.resident_settled = -ENOENT;
    run->peak_known = options->server && process_forget_peak(options->server) == 0;
    enter_phase(run, OPENING, 0);
    if (schedule_opens_connections(run))
        get_ready(run);
    result = loop(run);

    ring_fini(&run->ring);
no_ring:
    greedy_fini(&run->greedy);
no_greedy:
    free_connections(run);
no_connections:
    payload_fini(&run->payload);
    return result;
}

bool run_missed_rate(const struct run *run)
{
    const struct results *results = &run->results;
    return run->options->rate > 0 && results->answered < 0.99 * run->options->rate * results->seconds;
}
