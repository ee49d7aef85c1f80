/* Exec: a process for each connection, whose stdin and stdout are the connection, as of inetd.
 * try: rondo-exec cat, and: nc localhost 7777 */
#include <stdio.h>
#include <unistd.h>
#include <rondo/rondo.h>

static char **program;

/* A connection and its child know one another as long as both are there. */
struct session {
    rondo_transport *child;
};
struct child {
    rondo_transport *connection;
};

/* All that it has written lies in the socket, which the close delivers. */
static void child_lost(rondo_transport *t, int error)
{
    struct child *self = rondo_self(t);
    (void)error;
    if (self->connection == NULL)
        return;
    ((struct session *)rondo_self(self->connection))->child = NULL;
    rondo_close(self->connection);
}

static const rondo_protocol child = {
    .name = "child",
    .size = sizeof(struct child),
    .connection_lost = child_lost,
};

/* What the client sends is the child's to read. */
static void connection_made(rondo_transport *t)
{
    struct session *self = rondo_self(t);
    int socket;
    rondo_pause_reading(t);
    if (rondo_get_extra_info(t, "socket", &socket, sizeof socket) < 0) {
        rondo_abort(t);
        return;
    }
    const rondo_subprocess_options options = {
        .stdin_fd = socket,
        .stdout_fd = socket,
        .stderr_fd = RONDO_INHERIT,
    };
    int rc = rondo_subprocess_exec(rondo_get_loop(t), &child, (const char *const *)program, &options,
                                   &self->child);
    if (rc < 0)
        rondo_abort(t);
    else
        ((struct child *)rondo_self(self->child))->connection = t;
}

/* The server stops: the connection lasts as long as the child. */
static void drained(rondo_transport *t)
{
    const struct session *self = rondo_self(t);
    if (self->child == NULL)
        rondo_close(t);
}

static void connection_lost(rondo_transport *t, int error)
{
    const struct session *self = rondo_self(t);
    (void)error;
    if (self->child == NULL)
        return;
    ((struct child *)rondo_self(self->child))->connection = NULL;
    rondo_close(self->child);
}

static const rondo_protocol session = {
    .name = "exec",
    .size = sizeof(struct session),
    .connection_made = connection_made,
    .drained = drained,
    .connection_lost = connection_lost,
};

int main(int argc, char **argv)
{
    const rondo_option options[] = {
        { .name = "PROGRAM [ARGUMENT...]",
          .words = &program,
          .least = 1,
          .help = "Runs the program for each connection; its own options come behind a --. With "
                  "--idle-timeout a process\n"
                  "may last that long." },
        { 0 },
    };
    rondo_app app = { .servers = { { .url = "tcp://127.0.0.1:7777" } }, .protocol = &session };
    int status = rondo_parse_options(&app, argc, argv, options);
    if (status >= 0)
        return status;
    if (app.sandbox) {
        fprintf(stderr, "rondo-exec: --sandbox: allows no processes, which this program is for\n");
        return 2;
    }
    return rondo_run(&app) < 0;
}
