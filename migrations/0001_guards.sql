-- What the database itself refuses, whatever the code does.

CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log
BEGIN SELECT RAISE(ABORT, 'audit_log is append only'); END;
--> statement-breakpoint
CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log
BEGIN SELECT RAISE(ABORT, 'audit_log is append only'); END;
--> statement-breakpoint
CREATE TRIGGER ledger_entries_no_update BEFORE UPDATE ON ledger_entries
BEGIN SELECT RAISE(ABORT, 'ledger_entries is append only'); END;
--> statement-breakpoint
CREATE TRIGGER ledger_entries_no_delete BEFORE DELETE ON ledger_entries
BEGIN SELECT RAISE(ABORT, 'ledger_entries is append only'); END;
--> statement-breakpoint
CREATE TRIGGER transfers_no_update BEFORE UPDATE ON transfers
BEGIN SELECT RAISE(ABORT, 'transfers is append only'); END;
--> statement-breakpoint
CREATE TRIGGER transfers_no_delete BEFORE DELETE ON transfers
BEGIN SELECT RAISE(ABORT, 'transfers is append only'); END;
--> statement-breakpoint
-- A transfer's entries come first and the transfer closes them.
CREATE TRIGGER ledger_entries_open_transfer BEFORE INSERT ON ledger_entries
WHEN NEW.amount_fen = 0 OR EXISTS (SELECT 1 FROM transfers WHERE id = NEW.transfer_id)
BEGIN SELECT RAISE(ABORT, 'ledger: entry is zero or its transfer is closed'); END;
--> statement-breakpoint
CREATE TRIGGER ledger_entries_apply AFTER INSERT ON ledger_entries
BEGIN UPDATE ledger_accounts SET balance_fen = balance_fen + NEW.amount_fen WHERE id = NEW.account_id; END;
--> statement-breakpoint
CREATE TRIGGER transfers_balanced BEFORE INSERT ON transfers
WHEN (SELECT COUNT(*) < 2 OR SUM(amount_fen) <> 0 FROM ledger_entries WHERE transfer_id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'ledger: entries do not sum to zero'); END;
--> statement-breakpoint
CREATE TRIGGER ledger_wallet_not_negative BEFORE UPDATE ON ledger_accounts
WHEN NEW.id LIKE 'wallet:%' AND NEW.balance_fen < 0
BEGIN SELECT RAISE(ABORT, 'ledger: wallet below zero'); END;
--> statement-breakpoint
CREATE TRIGGER ledger_accounts_start_empty BEFORE INSERT ON ledger_accounts
WHEN NEW.balance_fen <> 0
BEGIN SELECT RAISE(ABORT, 'ledger: an account starts empty'); END;
--> statement-breakpoint
CREATE TRIGGER ledger_accounts_no_delete BEFORE DELETE ON ledger_accounts
BEGIN SELECT RAISE(ABORT, 'ledger: accounts are kept'); END;
--> statement-breakpoint
CREATE TRIGGER hosts_rev_grows BEFORE UPDATE OF desired_rev ON hosts
WHEN NEW.desired_rev < OLD.desired_rev
BEGIN SELECT RAISE(ABORT, 'hosts: desired_rev may not go back'); END;
