#include "target.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char scheme[] = "tcp://";

/* Cut "host:port" or "[host]:port" in two. */
static bool split(char *authority, char **host, char **port)
{
    *host = authority;
    if (*authority == '[') {
        char *end = strchr(authority, ']');
        if (!end || end[1] != ':')
            return false;
        *host = authority + 1;
        *end = '\0';
        *port = end + 2;
    } else {
        char *colon = strchr(authority, ':');
        if (!colon || strchr(colon + 1, ':'))
            return false;
        *colon = '\0';
        *port = colon + 1;
    }
    return **host && **port;
}

int target_resolve(struct target *target, const char *url)
{
    char authority[300], *host, *port;
    size_t prefix = strlen(scheme);
    if (strncmp(url, scheme, prefix) != 0 || strlen(url) - prefix >= sizeof authority ||
        !split(strcpy(authority, url + prefix), &host, &port)) {
        fprintf(stderr, "error: %s: not of the form tcp://host:port\n", url);
        return -1;
    }
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
    struct addrinfo *found;
    int error = getaddrinfo(host, port, &hints, &found);
    if (error) {
        fprintf(stderr, "error: %s: %s\n", url, gai_strerror(error));
        return -1;
    }
    memcpy(&target->address, found->ai_addr, found->ai_addrlen);
    target->address_size = found->ai_addrlen;
    freeaddrinfo(found);

    const struct sockaddr_in *v4 = (struct sockaddr_in *)&target->address;
    target->many_sources = v4->sin_family == AF_INET && ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    return 0;
}

/* The port is chosen by connect, which needs it free only towards this target: bind would need it free at all. */
static int bind_source(int fd, unsigned source)
{
    const int on = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK + source),
    };
    if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on))
        return -1;
    return bind(fd, (struct sockaddr *)&address, sizeof address);
}

int target_socket(const struct target *target, unsigned number, unsigned sources)
{
    const int on = 1;
    int fd = socket(target->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) ||
        (target->many_sources && bind_source(fd, number % sources))) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}
