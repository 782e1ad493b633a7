# What `make shell` has bash read: the user's own settings, then the environment of this clone.
[ ! -f ~/.bashrc ] || . ~/.bashrc
. "$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/activate"
