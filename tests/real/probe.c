/* Says what execve(2) made of it, in one line. Before that it does what its arguments ask for:
 *
 *   setuid UID       become that user
 *   securebits BITS  set them; without root's special treatment 1, without the fix-up of setuid(2) 4
 *   drop CAPABILITY  take the one with this number out of the bounding set
 *   nnp              set no_new_privs
 *   each FILE...     execute each in a child of its own, and say `FILE: ` and what it says, or why it cannot be executed
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void need(int result) {
    if (result == 0)
        return;
    printf("%s\n", strerror(errno));
    exit(1);
}

static unsigned long long status(const char *field, int column, int base) {
    char line[256];
    unsigned long long value = 0;
    FILE *file = fopen("/proc/self/status", "r");
    need(file == NULL);
    while (fgets(line, sizeof line, file))
        if (strncmp(line, field, strlen(field)) == 0) {
            char *word = strtok(line + strlen(field), ": \t\n");
            while (column-- > 0)
                word = strtok(NULL, ": \t\n");
            value = strtoull(word, NULL, base);
            break;
        }
    fclose(file);
    return value;
}

/* 0, or why not. That the port is in use is found out only after the permission was. */
static int bind_to(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int socket_ = socket(AF_INET, SOCK_STREAM, 0);
    need(socket_ < 0);
    int error = bind(socket_, (struct sockaddr *)&address, sizeof address) == 0 || errno == EADDRINUSE ? 0 : errno;
    close(socket_);
    return error;
}

static void report(void) {
    static const int ports[] = {80, 1023, 1024};
    printf("prm=%llx eff=%llx secure=%lu bind=", status("CapPrm", 0, 16), status("CapEff", 0, 16),
           getauxval(AT_SECURE));
    for (size_t i = 0; i < sizeof ports / sizeof *ports; i++) {
        int error = bind_to(ports[i]);
        printf("%s%s", i ? "," : "", error == 0 ? "ok" : error == EACCES ? "EACCES" : strerror(error));
    }
    printf(" uid=%llu,%llu,%llu inh=%llx bnd=%llx amb=%llx nnp=%llu bits=%x\n", status("Uid", 0, 10),
           status("Uid", 1, 10), status("Uid", 2, 10), status("CapInh", 0, 16), status("CapBnd", 0, 16),
           status("CapAmb", 0, 16), status("NoNewPrivs", 0, 10), (unsigned)prctl(PR_GET_SECUREBITS));
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "setuid") == 0) {
            need(setuid(atoi(argv[++i])));
        } else if (strcmp(argv[i], "securebits") == 0) {
            need(prctl(PR_SET_SECUREBITS, atoi(argv[++i])));
        } else if (strcmp(argv[i], "drop") == 0) {
            need(prctl(PR_CAPBSET_DROP, atoi(argv[++i])));
        } else if (strcmp(argv[i], "nnp") == 0) {
            need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        } else if (strcmp(argv[i], "each") == 0) {
            while (++i < argc) {
                if (fork() == 0) {
                    dprintf(1, "%s: ", argv[i]);
                    execl(argv[i], argv[i], (char *)NULL);
                    dprintf(1, "%s\n", strerror(errno));
                    _exit(1);
                }
                need(wait(NULL) < 0);
            }
            return 0;
        } else {
            return 2;
        }
    }
    report();
    return 0;
}
