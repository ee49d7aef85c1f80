#include "net/handshakes.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>

#include <rondo/log.h>

/* "   0: 0100007F:1F90 0100007F:C5A8 03 …": the number, the local address and port, the remote ones, the state. */
static bool is_handshake_at(const char *line, unsigned port)
{
    unsigned local, state;
    return sscanf(line, " %*u: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x", &local, &state) == 2 && local == port &&
           state == TCP_SYN_RECV;
}

bool handshakes_are_under_way(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address = { 0 };
    if (getsockname(fd, &address.any, &(socklen_t){ sizeof address }) < 0)
        return true;
    bool is_v6 = address.any.sa_family == AF_INET6;
    const char *path = is_v6 ? "/proc/self/net/tcp6" : "/proc/self/net/tcp";
    FILE *table = fopen(path, "re");
    if (table == NULL) {
        rondo_log(RONDO_LOG_DEBUG, "%s can't be read: handshakes get all the time there is", path);
        return true;
    }
    unsigned port = ntohs(is_v6 ? address.v6.sin6_port : address.v4.sin_port);
    bool found = false;
    for (char line[512]; !found && fgets(line, sizeof line, table) != NULL;)
        found = is_handshake_at(line, port);
    fclose(table);
    return found;
}
