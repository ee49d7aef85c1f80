/* The scenario language, read: one file, one scenario. README.md specifies it; scenario.py reads the same. */
#ifndef RONDO_TESTS_SCENARIO_H
#define RONDO_TESTS_SCENARIO_H

#include <stdbool.h>
#include <stddef.h>

#include <rondo/bytes.h>

#define CONNECTIONS_MAX 64

enum { ARGUMENTS_MAX = 16 };

enum who { PEER, TRANSPORT, SERVER, WAIT };

/* A call of a transport, a peer or the server, or something to wait for. */
struct action {
    const char *call; /* by name; of a server in a handler: "server close" */
    rondo_bytes data[ARGUMENTS_MAX];
    unsigned data_count;
    size_t number;
    char *name;
    bool truth;
    bool has_high, has_low, has_offset, has_count;
    size_t high, low, offset, count;
};

struct handler {
    const char *event;
    size_t received; /* of the event "received": when so many bytes have come */
    struct action *actions;
    unsigned action_count;
};

struct protocol_spec {
    char *name;
    bool is_buffered;
    size_t buffer_size;
    unsigned without; /* a bit for each of scenario_optional */
    struct handler *handlers;
    unsigned handler_count;
};

struct step {
    unsigned line;
    enum who who;
    unsigned number; /* of the connection, from 1 */
    struct action action;
};

struct scenario {
    const char *path;
    char *name; /* the file's, without its ending */
    enum { OF_SERVER, OF_CLIENT, OF_ACCEPTED } transport;
    enum { TCP, UNIX, ABSTRACT } socket;
    bool start_later;
    int buffers; /* 0: as large as they are */
    struct protocol_spec *protocols;
    unsigned protocol_count;
    struct step *steps;
    unsigned step_count;
};

enum {
    WITHOUT_DATA_RECEIVED,
    WITHOUT_EOF_RECEIVED,
    WITHOUT_PAUSE_WRITING,
    WITHOUT_RESUME_WRITING,
    WITHOUT_CONNECTION_LOST,
    WITHOUT_COUNT
};
extern const char *const scenario_optional[WITHOUT_COUNT];

/* Read one. NULL: the error has been printed as FILE:LINE: what is wrong. Never freed: a process ends with its scenarios. */
struct scenario *scenario_read(const char *path);

/* The protocol of that name; there is one. */
const struct protocol_spec *scenario_protocol(const struct scenario *scenario, const char *name);

#endif
