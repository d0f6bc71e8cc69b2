#!/bin/sh
# Installs sshd without letting it listen: Writ's runner starts `sshd -i` itself, one connection at a time,
# and nobody asked for a listener on port 22. Run as root. An sshd that is there already is left alone.
set -eu
[ -x /usr/sbin/sshd ] && exit 0
# systemd must not start it now or at the next boot …
if [ -d /etc/systemd/system ]; then
    for unit in ssh.service ssh.socket; do
        [ -e "/etc/systemd/system/$unit" ] || ln -s /dev/null "/etc/systemd/system/$unit"
    done
fi
# … and neither must Debian's own mechanism, where there is no systemd.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends openssh-server
echo 'sshd is installed and does not listen. To let it: systemctl unmask ssh.service ssh.socket'
