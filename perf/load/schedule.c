#include "schedule.h"

#include "run.h"

/* It settles with a few requests on each connection, as fast as the answers come. */
enum { SETTLING_REQUESTS = 20 };

void schedule_begin(struct run *run)
{
    run->schedule_ns = run->now_ns;
    run->scheduled = run->issued = 0;
}

bool schedule_opens_connections(const struct run *run)
{
    return run->options->mode->reconnects || run->touching;
}

uint64_t schedule_limit(const struct run *run)
{
    if (run->phase == SETTLING)
        return (uint64_t)run->options->connections * SETTLING_REQUESTS;
    return run->touching ? run->options->connections : run->options->count;
}

bool schedule_is_paced(const struct run *run)
{
    return run->options->rate > 0 && !run->touching && run->phase != SETTLING;
}

/* In a closed loop always now. */
static uint64_t next_due_ns(const struct run *run)
{
    if (!schedule_is_paced(run))
        return run->now_ns;
    return run->schedule_ns + (uint64_t)(run->scheduled * (SECOND_NS / run->options->rate));
}

/* What the window left unsent is sent late, but a server that can't keep up at all isn't waited for. */
static bool catches_up(const struct run *run)
{
    return schedule_is_paced(run) && run->phase == DRAINING && next_due_ns(run) < run->window_ends_ns &&
           run->now_ns < run->window_ends_ns + STALL_SECONDS * SECOND_NS;
}

bool schedule_goes_on(const struct run *run)
{
    uint64_t limit = schedule_limit(run);
    bool open = run->phase == WARMING_UP || run->phase == MEASURING || run->phase == SETTLING;
    if (!open && !catches_up(run))
        return false;
    if (run->touching && run->outstanding >= CONNECTING_MAX)
        return false;
    return limit == 0 || run->issued < limit;
}

bool schedule_has_nobody(const struct run *run)
{
    if (run->options->mode->reconnects)
        return run->retired == run->options->connections;
    return run->outstanding == 0 && !run->ready.first;
}

bool schedule_counts(const struct run *run, uint64_t due_ns)
{
    if (!schedule_is_paced(run))
        return run->phase == MEASURING;
    return (run->phase == MEASURING || run->phase == DRAINING) && due_ns >= run->window_began_ns;
}

uint64_t schedule_unsent(const struct run *run)
{
    if (!schedule_is_paced(run) || run->options->count > 0 || next_due_ns(run) >= run->window_ends_ns)
        return 0;
    return (run->window_ends_ns - next_due_ns(run)) * (run->options->rate / SECOND_NS) + 1;
}

static void issue_on(struct run *run, struct connection *c)
{
    if (schedule_opens_connections(run))
        connection_open(run, c);
    do {
        if (c->state == IS_RETIRED)
            return;
        connection_issue(run, c, next_due_ns(run));
        run->scheduled++;
    } while (c->issued - c->answered < run->options->depth && schedule_goes_on(run));
    connection_flush(run, c);
}

void schedule_issue(struct run *run)
{
    while (run->ready.first && schedule_goes_on(run) && next_due_ns(run) <= run->now_ns) {
        struct connection *c = queue_pop(&run->ready);
        if (c->state == IS_OPEN || schedule_opens_connections(run))
            issue_on(run, c);
    }
}
