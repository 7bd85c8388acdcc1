CREATE TABLE `tasks` (
	`id` text PRIMARY KEY NOT NULL,
	`host_id` text NOT NULL,
	`kind` text NOT NULL,
	`params` text,
	`subject` text,
	`state` text NOT NULL,
	`deadline_at` integer NOT NULL,
	`cancelled_at` integer,
	`epoch` integer,
	`events` text NOT NULL,
	`outcome` text,
	`clock_offset_ms` integer,
	`created_at` integer NOT NULL,
	`ended_at` integer,
	FOREIGN KEY (`host_id`) REFERENCES `hosts`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `tasks_open` ON `tasks` (`host_id`) WHERE state <> 'ended';--> statement-breakpoint
CREATE INDEX `tasks_subject` ON `tasks` (`subject`);--> statement-breakpoint
CREATE INDEX `tasks_deadline` ON `tasks` (`deadline_at`);--> statement-breakpoint
ALTER TABLE `captures` ADD `stopped_at` integer;--> statement-breakpoint
ALTER TABLE `hosts` ADD `link_proxy_port` integer DEFAULT 51822 NOT NULL;--> statement-breakpoint
ALTER TABLE `hosts` ADD `understands` text;--> statement-breakpoint
ALTER TABLE `hosts` ADD `link_via` text;--> statement-breakpoint
CREATE INDEX `hosts_private_network` ON `hosts` (`private_network`);