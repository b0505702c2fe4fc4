# SPDX-License-Identifier: Apache-2.0
# make demo, test, soak, lint, bench, install, deb, rpm: each prepares what it needs, or says what it is.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

PREFIX ?= /usr
PYTHON_DIR ?= $(PREFIX)/lib/python3/dist-packages
UNIT_DIR ?= $(PREFIX)/lib/systemd/system
USER_UNIT_DIR ?= $(PREFIX)/lib/systemd/user
SHARE = $(DESTDIR)$(PREFIX)/share

.PHONY: demo test soak lint bench install deb rpm clean

demo: $(VENV)/demo
	@$(BIN)/python tests/demo.py

# Tests wait for much of their time: three processes have two processors busy.
test: $(VENV)/test
	@$(BIN)/pytest -n 3 --dist loadfile $(ARGS)

soak: $(VENV)/test
	@$(BIN)/python tests/soak.py $(ARGS)

lint: $(VENV)/test
	$(BIN)/ruff format --check daemon tests packaging packaging/build-deb
	$(BIN)/ruff check daemon tests packaging packaging/build-deb
	$(BIN)/mypy

bench: $(VENV)/test
	@status=0; for table in relay footprint hub turns replay long_run restart control; do $(BIN)/python tests/bench/$$table.py || status=1; done; exit $$status

# What the demo needs, and what the tests need on top: system packages first, then a virtual environment.
$(VENV)/demo $(VENV)/test: $(VENV)/%: pyproject.toml .ci/setup
	@PYTHON=$(PYTHON) VENV=$(VENV) .ci/setup $*
	@touch $@

install:
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PYTHON_DIR) $(DESTDIR)$(UNIT_DIR) $(DESTDIR)$(USER_UNIT_DIR)
	cd daemon && find agentd -name '*.py' -exec cp --parents -t $(abspath $(DESTDIR)$(PYTHON_DIR)) {} +
	install -m 755 packaging/agentd packaging/agentctl $(DESTDIR)$(PREFIX)/bin/
	install -m 644 units/agentd* $(DESTDIR)$(UNIT_DIR)/
	install -m 644 units/user/* $(DESTDIR)$(USER_UNIT_DIR)/
	install -D -m 644 packaging/agentd.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/agentd.conf
	install -D -m 644 packaging/agentd.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/agentd.conf
	install -D -m 644 dbus/org.agentd1.xml $(SHARE)/dbus-1/interfaces/org.agentd1.xml
	install -D -m 644 dbus/org.agentd1.conf $(SHARE)/dbus-1/system.d/org.agentd1.conf
	install -D -m 644 dbus/org.agentd1.service $(SHARE)/dbus-1/system-services/org.agentd1.service
	install -D -m 644 dbus/org.agentd1.session.service $(SHARE)/dbus-1/services/org.agentd1.service
	install -D -m 644 dbus/org.agentd1.policy $(SHARE)/polkit-1/actions/org.agentd1.policy
	install -D -m 644 dbus/agentd.rules $(SHARE)/polkit-1/rules.d/agentd.rules
	install -D -m 644 packaging/man/agentctl.1 $(SHARE)/man/man1/agentctl.1
	install -D -m 644 packaging/man/agentd.8 $(SHARE)/man/man8/agentd.8
	install -D -m 644 packaging/man/agentd.toml.5 $(SHARE)/man/man5/agentd.toml.5
	$(PYTHON) packaging/man/interface.py dbus/org.agentd1.xml >$(SHARE)/man/man5/org.agentd1.5
	install -D -m 644 packaging/agentd.catalog $(DESTDIR)$(PREFIX)/lib/systemd/catalog/agentd.catalog
	install -D -m 644 packaging/completions/agentctl.bash $(SHARE)/bash-completion/completions/agentctl
	install -D -m 644 packaging/completions/agentctl.zsh $(SHARE)/zsh/vendor-completions/_agentctl
	install -D -m 644 packaging/completions/agentctl.fish $(SHARE)/fish/vendor_completions.d/agentctl.fish

# Packages of this checkout, in dist/.
deb:
	packaging/build-deb --lintian $(ARGS)

rpm:
	packaging/build-rpm

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
