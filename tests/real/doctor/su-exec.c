/* su-exec USER PROGRAM [ARGUMENT...], with the system calls and the words of the one of Alpine Linux. */
#include <err.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 3)
        errx(1, "Usage: su-exec user-spec command [args]");
    /* getpwnam(3) does not work in a static program. */
    FILE *file = fopen("/etc/passwd", "r");
    struct passwd *user = NULL;
    while (file != NULL && (user = fgetpwent(file)) != NULL && strcmp(user->pw_name, argv[1]) != 0)
        ;
    if (user == NULL)
        errx(1, "%s: no such user", argv[1]);
    if (setgroups(1, &user->pw_gid) < 0)
        err(1, "setgroups");
    if (setgid(user->pw_gid) < 0)
        err(1, "setgid(%i)", user->pw_gid);
    if (setuid(user->pw_uid) < 0)
        err(1, "setuid(%i)", user->pw_uid);
    execvp(argv[2], &argv[2]);
    err(1, "%s", argv[2]);
}
