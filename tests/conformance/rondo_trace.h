/* rondo-trace, which runs scenarios on rondo: what its parts know of each other.
 *
 *   scenario.c               a scenario, from its file (as scenario.py)
 *   records.c                the trace (as records.py)
 *   rondo_trace_loop.c       the protocols and their calls: on the shard
 *   rondo_trace_peers.c      the peers, with plain sockets: on the conductor's thread
 *   rondo_trace.c            the conductor, who takes step after step; main */
#ifndef RONDO_TRACE_H
#define RONDO_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include <rondo/rondo.h>

#define CONNECTIONS_MAX 256
#define PATIENCE_MS     10000
#define SOON_MS         1000

/* ---- the scenario ------------------------------------------------------------------------------------------- */

enum subject { PEER, TRANSPORT, SERVER, WAIT, SLEEP, RETURN };

enum transport_call {
    WRITE,
    WRITELINES,
    ECHO,
    WRITE_EOF,
    CAN_WRITE_EOF,
    CLOSE,
    ABORT,
    IS_CLOSING,
    PAUSE_READING,
    RESUME_READING,
    IS_READING,
    SET_WRITE_BUFFER_LIMITS,
    GET_WRITE_BUFFER_LIMITS,
    GET_WRITE_BUFFER_SIZE,
    GET_EXTRA_INFO,
    SET_PROTOCOL,
    GET_PROTOCOL,
    SENDFILE,
    SENDTO,
    REPLY,
    GET_RETURNCODE,
    GET_PIPE_TRANSPORT,
    SEND_SIGNAL,
    TERMINATE,
    KILL,
    MARK,
    TRANSPORT_CALLS,
    CONNECT = TRANSPORT_CALLS, /* only in steps, and of clients */
};

enum server_call {
    START_SERVING,
    IS_SERVING,
    SOCKETS,
    SERVER_CLOSE,
    WAIT_CLOSED,
    CLOSE_CLIENTS,
    ABORT_CLIENTS,
    PATH_EXISTS,
    SERVER_CALLS
};

enum peer_call {
    PEER_LISTEN,
    PEER_STOP_LISTENING,
    PEER_CONNECT,
    PEER_ACCEPT,
    PEER_BUFFERS,
    PEER_SEND,
    PEER_EXCHANGE,
    PEER_READ,
    PEER_READ_TO_END,
    PEER_READ_NOTHING,
    PEER_HALF_CLOSE,
    PEER_CLOSE,
    PEER_RESET,
    PEER_RECEIVE,
    PEER_CALLS
};

/* Callbacks, and what else can be counted or waited for. */
enum event {
    CONNECTION_MADE,
    DATA_RECEIVED,
    RECEIVED,
    EOF_RECEIVED,
    PAUSE_WRITING,
    RESUME_WRITING,
    CONNECTION_LOST,
    SENDFILE_DONE,
    DATAGRAM_RECEIVED,
    ERROR_RECEIVED,
    PIPE_CONNECTION_LOST,
    PROCESS_EXITED,
    BUFFER_UPDATED, /* DATA_RECEIVED by another name */
    HANDLED_EVENTS,
    CONNECTION_FAILED = HANDLED_EVENTS,
    SENT,
    EVENTS
};

extern const char *const transport_call_names[TRANSPORT_CALLS + 1];
extern const char *const server_call_names[SERVER_CALLS];
extern const char *const peer_call_names[PEER_CALLS];
extern const char *const event_names[EVENTS];

#define NOT_GIVEN SIZE_MAX

struct action {
    enum subject subject;
    unsigned connection; /* 0: the handler's own */
    int call;            /* of the subject's enum; of WAIT: enum event; of RETURN: the answer */
    rondo_bytes *data;
    unsigned data_count;
    const char *text; /* of get_extra_info, set_protocol; of mark as JSON */
    size_t number;    /* count, size, milliseconds, address */
    size_t high, low; /* NOT_GIVEN: not */
    size_t send, receive;
    size_t offset, count;
};

struct handler {
    enum event event;
    unsigned line;
    unsigned connection; /* 0: all */
    size_t number;       /* 0: each call; of RECEIVED: bytes */
    rondo_bytes text;    /* of RECEIVED */
    struct action *actions;
    unsigned action_count;
    bool fired[CONNECTIONS_MAX + 2]; /* of RECEIVED */
};

struct protocol {
    rondo_protocol table; /* first: a transport's table leads back to this */
    const char *name;
    bool is_buffered;
    size_t size;
    unsigned without; /* 1 << enum event */
    struct handler *handlers;
    unsigned handler_count;
};

struct step {
    unsigned line;
    enum subject subject;
    unsigned first, last; /* connections */
    struct action *actions;
    unsigned action_count;
    bool goes_on; /* on the same line: no rest before the next */
};

enum side {
    OF_SERVER,
    OF_CLIENT,
    OF_ACCEPTED,
    OF_DATAGRAMS,
    OF_CONNECTED_DATAGRAMS,
    OF_READ_PIPE,
    OF_WRITE_PIPE,
    OF_SUBPROCESS,
};

static inline bool is_of_datagrams(enum side side)
{
    return side == OF_DATAGRAMS || side == OF_CONNECTED_DATAGRAMS;
}

static inline bool is_of_pipes(enum side side)
{
    return side == OF_READ_PIPE || side == OF_WRITE_PIPE;
}

enum family { TCP, UNIX, ABSTRACT };

struct scenario {
    const char *path;
    char *name;
    enum side side;
    enum family family;
    bool starts_later;
    unsigned addresses;
    size_t buffers;              /* 0: as they are */
    const char *command;         /* of a subprocess */
    struct protocol **protocols; /* main first */
    unsigned protocol_count;
    struct step *steps;
    unsigned step_count;
    char error[1024]; /* "file:line: what is wrong; what is allowed" */
    void *allocated;
};

/* The scenario of a file. With an error it says so there, and has no steps. Freed by scenario_free. */
struct scenario *scenario_read(const char *path);
void scenario_free(struct scenario *scenario);

/* Zeroed; freed with the scenario. */
void *scenario_new(struct scenario *scenario, size_t size);

/* ---- the trace: any thread ---------------------------------------------------------------------------------- */

enum on { ON_PEER, ON_SCENARIO, ON_SERVER, ON_TRANSPORT }; /* in the order of the alphabet */

/* Guards all that both threads know. */
void trace_lock(void);
void trace_unlock(void);
void trace_changed(void); /* locked: something moved; whoever waits looks again */
void trace_wake(void);    /* locked: whoever waits looks again */

/* Wait until is_so(argument), called with the lock held, is true. False: not within that time, or the trace failed. */
bool trace_wait(bool (*is_so)(void *argument), void *argument, unsigned milliseconds);
bool trace_wait_always(bool (*is_so)(void *argument), void *argument,
                       unsigned milliseconds); /* failed or not */

/* A line; `fields` are JSON: "event": "eof". Connection 0: none is named. */
void trace_line(enum on on, unsigned connection, const char *fields, ...)
    __attribute__((format(printf, 3, 4)));

/* Bytes; those that come one after another are one line. protocol: NULL, or its name. */
void trace_data(enum on on, unsigned connection, const char *event, const char *protocol, rondo_bytes data);

/* The scenario can't go on, or should not have come so far; only the first counts. */
void trace_error(const char *what, ...) __attribute__((format(printf, 1, 2)));

void trace_step(unsigned line); /* of the scenario: for errors */
void trace_touch(void);         /* something moved that has no line */
bool trace_has_failed(void);    /* there was an error */
uint64_t trace_count(void);     /* of all that moved */
void trace_mute(bool is_mute);  /* what comes now is no part of the trace */
void trace_print(bool whole);   /* and forget */

/* "text" as JSON, freed by the caller. */
char *json_text(const char *text, size_t size);

/* ECONNRESET, for -ECONNRESET or ECONNRESET, in quotes; null for 0. A static string, or of the calling thread. */
const char *json_error(int error);

/* ---- a run of a scenario -------------------------------------------------------------------------------------- */

struct address {
    struct sockaddr_storage name; /* zeroed behind its end */
    socklen_t size;
};

struct connection {
    unsigned number;

    /* Of the shard; what the conductor reads, too, is guarded by the trace's lock. */
    rondo_transport *t;
    rondo_connector *connector;
    bool made, lost;
    bool in_lost;
    bool served; /* by the server */
    size_t counts[EVENTS];
    size_t received;
    char tail[4096]; /* the last bytes received */
    size_t tail_size;
    int sendfiles; /* under way */
    rondo_bytes current;
    rondo_address sender; /* of it */
    char *said[3];        /* a child, by descriptor, until it is told */
    size_t said_size[3];
    int pipe_error[3]; /* 1: it has not ended */
    bool has_exited;
    struct address sockname, expected_peername;

    /* Of the conductor. */
    int peer; /* -1: none */
    bool asked, was_reset;
};

struct run {
    struct scenario *scenario;
    rondo_loop *loop;
    struct connection connections[CONNECTIONS_MAX + 2]; /* from 1; the last: of nobody */
    char folder[80], path[96];

    /* Of the shard. */
    rondo_server *server; /* NULL once it is gone */
    rondo_call gone;
    bool ending;
    unsigned server_waiters;
    size_t server_closed_events; /* guarded */
    bool server_is_gone;         /* guarded */
    int sendfiles;               /* under way, of all connections; guarded */
    unsigned actions;

    /* Guarded: connections whose peer has connected, or is about to, in their order. */
    unsigned arriving[CONNECTIONS_MAX];
    unsigned arriving_count;

    /* Of the conductor; the shard's before the first step. */
    struct address addresses[9]; /* from 1 */
    char url[160];
    int listener; /* -1: none */
};

extern struct run *run; /* the scenario's that is run */

/* Run call(argument), or nothing, on the shard, outside of any callback, and wait for it. True; it does not return when the
 * shard doesn't turn any more. */
bool on_loop(void (*call)(void *argument), void *argument);

/* rondo_trace_loop.c: on the shard. */
void loop_start(void *error);              /* const char **: set where it fails */
void loop_perform_step(void *step);        /* struct step_of */
void loop_server_call(void *action);       /* struct action */
void loop_accepted(void *accepted);        /* struct accepted */
void loop_open_other(void *accepted);      /* likewise: one end of a pipe; or without a descriptor */
void loop_ask_write_buffer(void *waiting); /* struct waiting */
void loop_abort_all(void *unused);
bool loop_is_over(void *unused); /* with the lock held: nothing of the scenario is left */

struct step_of {
    const struct step *step;
    struct connection *connection;
};

struct accepted {
    struct connection *connection;
    int fd;
};

struct waiting {
    struct connection *connection;
    size_t size;
};

/* rondo_trace_peers.c. False: the scenario can't go on, and the trace says why. */
bool peers_start(void);
bool peer_do(struct connection *connection, const struct action *action);
void peers_close(void);
uint64_t now_ms(void);

#endif
