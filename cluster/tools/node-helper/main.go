// One static program under two names. As `pause` it holds a pod's namespaces and reaps its orphans; as `volume` it
// makes or removes the folder of a volume for local-path-provisioner. So the node needs no image from a registry.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	if filepath.Base(os.Args[0]) == "volume" {
		if err := volume(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	pause()
}

func pause() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 && err != syscall.EINTR {
				break
			}
		}
	}
}

// volume takes local-path-provisioner's arguments: -p PATH -s BYTES -m MODE -a create|delete.
func volume(args []string) error {
	flags := flag.NewFlagSet("volume", flag.ContinueOnError)
	path := flags.String("p", "", "the volume's folder")
	flags.Int64("s", 0, "the size asked for; a folder has no limit")
	flags.String("m", "", "the volume's mode")
	action := flags.String("a", "", "create or delete")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if !filepath.IsAbs(*path) {
		return fmt.Errorf("the volume's folder must be an absolute path, not %q", *path)
	}
	switch *action {
	case "create":
		if err := os.MkdirAll(*path, 0o777); err != nil {
			return err
		}
		return os.Chmod(*path, 0o777) // whatever the umask, since pods run as any user
	case "delete":
		return os.RemoveAll(*path)
	}
	return fmt.Errorf("unknown action %q", *action)
}
