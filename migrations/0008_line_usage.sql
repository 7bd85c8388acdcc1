CREATE TABLE `connection_usage` (
	`connection_id` text PRIMARY KEY NOT NULL,
	`line_id` text NOT NULL,
	`up_bytes` integer DEFAULT 0 NOT NULL,
	`down_bytes` integer DEFAULT 0 NOT NULL,
	`last_handshake_at` integer,
	`last_bytes_at` integer,
	FOREIGN KEY (`connection_id`) REFERENCES `connections`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`line_id`) REFERENCES `lines`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `connection_usage_line` ON `connection_usage` (`line_id`,`connection_id`);--> statement-breakpoint
CREATE TABLE `line_usage` (
	`line_id` text NOT NULL,
	`day` text NOT NULL,
	`up_bytes` integer DEFAULT 0 NOT NULL,
	`down_bytes` integer DEFAULT 0 NOT NULL,
	`denied_packets` integer DEFAULT 0 NOT NULL,
	`denied_names` integer DEFAULT 0 NOT NULL,
	PRIMARY KEY(`line_id`, `day`),
	FOREIGN KEY (`line_id`) REFERENCES `lines`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `line_usage_day` ON `line_usage` (`day`);--> statement-breakpoint
CREATE TABLE `usage_meters` (
	`host_id` text NOT NULL,
	`life` text NOT NULL,
	`of_peer` integer NOT NULL,
	`first` integer DEFAULT 0 NOT NULL,
	`second` integer DEFAULT 0 NOT NULL,
	`observed_at` integer NOT NULL,
	PRIMARY KEY(`life`, `host_id`),
	FOREIGN KEY (`host_id`) REFERENCES `hosts`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `usage_meters_observed` ON `usage_meters` (`observed_at`);--> statement-breakpoint
ALTER TABLE `lines` ADD `mtu` integer;--> statement-breakpoint
CREATE INDEX `connections_by_peer` ON `connections` (`exit_host_id`,`client_public_key`,`id`);