#include "target.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

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

static int refuse(const char *url, const char *why)
{
    fprintf(stderr, "error: %s: %s\n", url, why);
    return -1;
}

static int resolve_tcp(struct target *target, const char *url, const char *rest)
{
    char authority[300], *host, *port;
    if (strlen(rest) >= sizeof authority || !split(strcpy(authority, rest), &host, &port))
        return refuse(url, "not of the form tcp://host:port");
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
    struct addrinfo *found;
    int error = getaddrinfo(host, port, &hints, &found);
    if (error)
        return refuse(url, gai_strerror(error));
    memcpy(&target->address, found->ai_addr, found->ai_addrlen);
    target->address_size = found->ai_addrlen;
    freeaddrinfo(found);

    const struct sockaddr_in *v4 = (struct sockaddr_in *)&target->address;
    target->many_sources = v4->sin_family == AF_INET && ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    return 0;
}

/* Write `text` with its %XX replaced to `to`, and return its size; -1 if it doesn't fit, or is none. */
static int decode(char *to, size_t room, const char *text)
{
    size_t size = 0;
    for (; *text && size < room; text++, size++) {
        to[size] = *text;
        if (*text != '%')
            continue;
        if (!isxdigit((unsigned char)text[1]) || !isxdigit((unsigned char)text[2]))
            return -1;
        sscanf(text + 1, "%2hhx", (unsigned char *)&to[size]);
        text += 2;
    }
    return *text ? -1 : (int)size;
}

static int resolve_unix(struct target *target, const char *url, const char *rest)
{
    struct sockaddr_un *address = (struct sockaddr_un *)&target->address;
    struct stat status;
    if ((*rest != '/' && *rest != '@') || !rest[1])
        return refuse(url, "not of the form unix:///path or unix://@name");
    int size = decode(address->sun_path, sizeof address->sun_path - 1, rest);
    if (size < 0)
        return refuse(url, "longer than a Unix socket's address may be (107 bytes), or not well encoded");
    address->sun_family = AF_UNIX;
    target->address_size = offsetof(struct sockaddr_un, sun_path) + size;
    if (*rest == '@')
        address->sun_path[0] = '\0';
    else if (stat(address->sun_path, &status))
        return refuse(url,
                      errno == ENOENT ? "there is no such socket: is the server running?" : strerror(errno));
    else if (!S_ISSOCK(status.st_mode))
        return refuse(url, "that is no socket");
    return 0;
}

int target_resolve(struct target *target, const char *url)
{
    static const char tcp[] = "tcp://", unix_[] = "unix://";
    if (strncmp(url, tcp, strlen(tcp)) == 0)
        return resolve_tcp(target, url, url + strlen(tcp));
    if (strncmp(url, unix_, strlen(unix_)) == 0)
        return resolve_unix(target, url, url + strlen(unix_));
    return refuse(url, "an address is tcp://host:port, unix:///path or unix://@name");
}

bool target_is_unix(const struct target *target)
{
    return target->address.ss_family == AF_UNIX;
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

static int set_up_tcp(const struct target *target, int fd, unsigned source)
{
    const int on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on))
        return -1;
    return target->many_sources ? bind_source(fd, source) : 0;
}

int target_socket(const struct target *target, unsigned number, unsigned sources)
{
    int fd = socket(target->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (!target_is_unix(target) && set_up_tcp(target, fd, number % sources)) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

/* Only while it connects doesn't it block: a ring neither polls nor retries for a descriptor that never blocks. */
int target_connect_unix(const struct target *target, int fd)
{
    int on = 1, off = 0;
    if (ioctl(fd, FIONBIO, &on))
        return -errno;
    if (connect(fd, (const struct sockaddr *)&target->address, target->address_size))
        return -errno;
    return ioctl(fd, FIONBIO, &off) ? -errno : 0;
}
