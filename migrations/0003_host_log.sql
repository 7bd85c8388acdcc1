CREATE TABLE `host_revisions` (
	`id` text PRIMARY KEY NOT NULL,
	`host_id` text NOT NULL,
	`rev` integer NOT NULL,
	`at` integer NOT NULL,
	`actor` text NOT NULL,
	`request_id` text,
	`causes` text NOT NULL,
	`changes` text NOT NULL,
	`applied_at` integer,
	`failed` text,
	FOREIGN KEY (`host_id`) REFERENCES `hosts`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `host_revisions_host` ON `host_revisions` (`host_id`,`id`);--> statement-breakpoint
CREATE INDEX `host_revisions_waiting` ON `host_revisions` (`host_id`,`rev`) WHERE applied_at IS NULL;--> statement-breakpoint
ALTER TABLE `hosts` ADD `failing_since` integer;--> statement-breakpoint
ALTER TABLE `hosts` ADD `linked_at` integer;