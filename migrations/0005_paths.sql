CREATE TABLE `path_segments` (
	`host_id` text NOT NULL,
	`target` text NOT NULL,
	`to_host_id` text,
	`state` text NOT NULL,
	`against` integer NOT NULL,
	`baseline_us` integer,
	`since` integer NOT NULL,
	`last_at` integer NOT NULL,
	`last_sent` integer NOT NULL,
	`last_received` integer NOT NULL,
	`last_p_50_us` integer,
	PRIMARY KEY(`host_id`, `target`),
	FOREIGN KEY (`host_id`) REFERENCES `hosts`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `path_segments_degraded` ON `path_segments` (`host_id`) WHERE state = 'degraded';--> statement-breakpoint
CREATE TABLE `path_series` (
	`host_id` text NOT NULL,
	`target` text NOT NULL,
	`span` integer NOT NULL,
	`bucket` integer NOT NULL,
	`rounds` integer NOT NULL,
	`sent` integer NOT NULL,
	`received` integer NOT NULL,
	`min_us` integer,
	`max_us` integer,
	`answered` integer NOT NULL,
	`p50_sum_us` integer NOT NULL,
	PRIMARY KEY(`host_id`, `target`, `span`, `bucket`)
);
--> statement-breakpoint
CREATE INDEX `path_series_age` ON `path_series` (`span`,`bucket`);