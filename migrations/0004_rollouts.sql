CREATE TABLE `rollout_hosts` (
	`rollout_id` text NOT NULL,
	`host_id` text NOT NULL,
	`canary` integer NOT NULL,
	`state` text NOT NULL,
	`attempt` text,
	`from_version` text,
	`failed_before` text,
	`on_trial` integer NOT NULL,
	`sent_at` integer,
	`deadline_at` integer,
	`ended_at` integer,
	`error` text,
	`last_words` text,
	FOREIGN KEY (`rollout_id`) REFERENCES `rollouts`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`host_id`) REFERENCES `hosts`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `rollout_hosts_host` ON `rollout_hosts` (`rollout_id`,`host_id`);--> statement-breakpoint
CREATE UNIQUE INDEX `rollout_hosts_one_at_a_time` ON `rollout_hosts` (`host_id`) WHERE state IN ('pending', 'sent');--> statement-breakpoint
CREATE INDEX `rollout_hosts_sent` ON `rollout_hosts` (`state`);--> statement-breakpoint
CREATE TABLE `rollouts` (
	`id` text PRIMARY KEY NOT NULL,
	`version` text NOT NULL,
	`manifest` text NOT NULL,
	`signature` text NOT NULL,
	`target` text NOT NULL,
	`state` text NOT NULL,
	`batch` integer NOT NULL,
	`soak_ms` integer NOT NULL,
	`trial_s` integer NOT NULL,
	`older` integer NOT NULL,
	`wait_until` integer,
	`halt_reason` text,
	`resumes` integer NOT NULL,
	`created_by` text NOT NULL,
	`created_at` integer NOT NULL,
	`ended_at` integer
);
--> statement-breakpoint
ALTER TABLE `hosts` ADD `joined_at` integer;