/* For tests: watches the path that it is given, as programs do that follow a file, until it is killed. */
#include <sys/inotify.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 2 || inotify_add_watch(inotify_init(), argv[1], IN_MODIFY) < 0)
		return 1;
	for (;;)
		pause();
}
