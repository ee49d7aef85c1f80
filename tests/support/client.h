/* Connections out, under test: listening sockets and black holes of the test's own, and a record of what a connector
 * told.
 *
 * What is called back is written down in letters: SC started_connecting, CM connection_made, DR data_received (once
 * for a row of them), ER eof_received, CL the protocol's connection_lost, cf connection_failed, cl the connector's
 * connection_lost. */
#ifndef RONDO_TESTS_CLIENT_H
#define RONDO_TESTS_CLIENT_H

#include <rondo/client.h>

#include "net/dial.h"
#include "support/pair.h"

struct record {
    struct world *world;
    rondo_connector *connector; /* NULL once freed, as far as the hooks tell */
    char calls[2048];
    char why[DIAL_WHY_BYTES]; /* the last one */
    int error;                /* of the last cf or cl */
    unsigned failed, lost, made;
    bool in_call; /* the test is inside a call of its own: no hook may come */

    /* What the test wants done in a hook, beside writing it down. */
    void (*on_started)(struct record *r);
    void (*on_made)(struct record *r, rondo_transport *t);
    void (*on_data)(struct record *r, rondo_transport *t, rondo_bytes data);
    void (*on_failed)(struct record *r);
    void (*on_lost)(struct record *r);
    int note;
};

extern const rondo_protocol client_recording;

/* Options that record into `r`; url is kept. */
rondo_client_options client_options(struct record *r, const char *url);
void client_connect(struct record *r, struct world *world, const rondo_client_options *options);

/* Turn the loop, waiting, until *count is at least so much; fails after 10 s. */
void client_turn_until(struct record *r, const unsigned *count, unsigned wanted);
/* Turn until nothing uses the loop. */
void client_turn_out(struct record *r);
/* Turn without waiting until nothing happens any more. */
void client_turn(struct record *r);

/* A listening socket at "127.0.0.1" or "::1"; port 0: any, set to the one it has. */
int client_listen(const char *address, unsigned *port, int backlog);
/* A port of loopback where nobody listens, held until the returned socket is closed, or listens. port as above. */
int client_refusing_port(unsigned *port);
/* A listening socket that answers nobody: its queue is full. Accept `filler` from it, and it answers again. */
struct black_hole {
    int listener, filler;
};
void client_black_hole(struct black_hole *hole, const char *address, unsigned *port);
void client_close_black_hole(struct black_hole *hole);

/* Text that lives as long as the test. */
const char *client_url(const char *host, unsigned port);

unsigned client_count_descriptors(void);

#endif
